"""The interface of long-term searches, and the cosine search."""

from typing import Any

import keras

from muse_keras._export import muse_keras_export
from muse_keras._keras_internals import allow_objects
from muse_keras._ops.checks import integer
from muse_keras._ops.docstrings import attributes_of
from muse_keras.layers.gsu_top_k import GSUTopK
from muse_keras.models.views import BehaviorView, CandidateView, FoundBehaviors


class BehaviorSearch(keras.layers.Layer):
    """Chooses the K behaviors that the exact search unit will see.

    A subclass implements `call`. It reads the fields of the views that it
    searches by; what it does not read is not computed.

    The similarities of the result are multimodal cosines, whatever the search
    went by, and 0 for an item without a vector. They are computed when they
    are read, unless the search computed them. No gradient flows through a
    search.

    Args:
        k: int, behaviors kept for each candidate.
        **kwargs: see `keras.layers.Layer`.

    Call arguments:
        candidates: `CandidateView`.
        behaviors: `BehaviorView`.

    Output shape:
        `FoundBehaviors` of `(B, C, K)`.
    """

    def __init__(self, k: int = 50, **kwargs: Any) -> None:
        kwargs.setdefault("autocast", False)
        super().__init__(**kwargs)
        allow_objects(self)
        self.k = integer("k", k)

    def build(self, input_shape: Any = None) -> None:
        """Make no weights: most searches have none."""
        self.built = True

    def call(
        self, candidates: CandidateView, behaviors: BehaviorView
    ) -> FoundBehaviors:
        """Return the behaviors found for every candidate."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, those that are attributes."""
        return {**super().get_config(), **attributes_of(self)}


@muse_keras_export()
class CosineSearch(BehaviorSearch):
    """The K behaviors of the highest multimodal cosine: MUSE's search.

    Order: descending cosine, of equal ones the smaller position first. Takes
    O(L D) per candidate; see `GSUTopK` for the memory.

    Reference: MUSE, arXiv 2512.07216.

    Args:
        k: int, behaviors kept for each candidate.
        **kwargs: see `keras.layers.Layer`.

    Example:
    >>> from muse_keras.models import CosineSearch, MUSE
    >>> isinstance(MUSE(9, {}, {}, gsu="scl_cosine").search, CosineSearch)
    True
    """

    def __init__(self, k: int = 50, **kwargs: Any) -> None:
        super().__init__(k=k, **kwargs)
        self.top_k = GSUTopK(k, name="gsu_top_k")

    def call(
        self, candidates: CandidateView, behaviors: BehaviorView
    ) -> FoundBehaviors:
        """Search; see `GSUTopK`."""
        similarities, indices, mask = self.top_k(
            candidates.vectors,
            behaviors.vectors,
            behaviors.mask,
            behaviors.inverse_norms,
        )
        return FoundBehaviors.at(
            candidates, behaviors, indices, mask, similarities
        )
