"""The interface of long-term searches, and the cosine search."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from muse_keras._export import muse_keras_export
from muse_keras._ops.checks import integer
from muse_keras._ops.cosine import cosines_of_found
from muse_keras._ops.positions import take_positions, take_vectors_at
from muse_keras.layers.gsu_top_k import GSUResult, GSUTopK
from muse_keras.models.views import BehaviorView, CandidateView


class BehaviorSearch(keras.layers.Layer):
    """Chooses the K behaviours that the exact search unit will see.

    A subclass implements `call`. It says by class attributes what it looks
    at, so that a ranker gathers nothing in vain: `needs_vectors` for
    multimodal codes, `needs_embeddings` for trained id and category
    embeddings of the whole history, `needs_projections` for the queries and
    keys of the exact search unit's attention.

    The similarities in its result are what the exact search unit models:
    multimodal cosines of what was found, whatever it was found by and in the
    order of the search; 0 for an item without a vector. No gradient flows
    through a search.

    Args:
        k: int, behaviours kept for each candidate.
        **kwargs: see `keras.layers.Layer`.

    Call arguments:
        candidates: `CandidateView`.
        behaviors: `BehaviorView`.
        with_similarities: bool. False: nobody looks at the similarities, and
            a search that does not know them anyway leaves them 0.

    Output shape:
        `GSUResult` of three tensors `(B, C, K)`.
    """

    needs_vectors = False
    needs_embeddings = False
    needs_projections = False

    def __init__(self, k: int = 50, **kwargs: Any) -> None:
        """Set the arguments; see the class."""
        kwargs.setdefault("autocast", False)
        super().__init__(**kwargs)
        self.k = integer("k", k)
        self._vectors_of: Callable[[Any], Any] | None = None

    def read_vectors_with(self, vectors_of: Callable[[Any], Any]) -> None:
        """Set where the codes of what was found are read from.

        A ranker sets its table, so that a search which looks at something
        else need not be given the codes of a whole history.

        Args:
            vectors_of: function of int32 rows (...) to int8 codes (..., D).
        """
        self._vectors_of = vectors_of

    def build(
        self, candidates_shape: Any = None, behaviors_shape: Any = None
    ) -> None:
        """Make nothing: most searches have no weights."""
        self.built = True

    def call(
        self,
        candidates: CandidateView,
        behaviors: BehaviorView,
        with_similarities: bool = True,
    ) -> GSUResult:
        """Return the behaviours found for every candidate."""
        raise NotImplementedError

    def compute_output_spec(
        self,
        candidates: CandidateView,
        behaviors: BehaviorView,
        with_similarities: bool = True,
    ) -> GSUResult:
        """Return the shapes and dtypes of `call`'s result."""
        shape = (*tuple(candidates.rows.shape), self.k)
        return GSUResult(
            keras.KerasTensor(shape, "float32"),
            keras.KerasTensor(shape, "int32"),
            keras.KerasTensor(shape, "bool"),
        )

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        config = super().get_config()
        config["k"] = self.k
        return config

    def _result(
        self,
        candidates: CandidateView,
        behaviors: BehaviorView,
        indices: Any,
        mask: Any,
        with_similarities: bool,
    ) -> GSUResult:
        """Return what was found, with its multimodal cosines.

        Args:
            candidates: `CandidateView`.
            behaviors: `BehaviorView`.
            indices: int32 (B, C, K), 0 where masked.
            mask: bool (B, C, K).
            with_similarities: bool, compute the cosines.
        """
        if not with_similarities:
            return GSUResult(ops.cast(mask, "float32") * 0.0, indices, mask)
        if self._vectors_of is None:
            vectors = take_vectors_at(behaviors.vectors, indices)
        else:
            vectors = self._vectors_of(take_positions(behaviors.rows, indices))
        cosines = cosines_of_found(candidates.vectors, vectors)
        zeros = ops.zeros_like(cosines)
        return GSUResult(ops.where(mask, cosines, zeros), indices, mask)


class TopKSearch(BehaviorSearch):
    """A search by one `GSUTopK`.

    Args:
        k: int, behaviours kept for each candidate.
        **kwargs: see `keras.layers.Layer`.
    """

    def __init__(self, k: int = 50, **kwargs: Any) -> None:
        """Set the arguments; see the class."""
        super().__init__(k=k, **kwargs)
        self.top_k = GSUTopK(k, name="gsu_top_k")


@muse_keras_export()
class CosineSearch(TopKSearch):
    """The K behaviours of the highest multimodal cosine: MUSE's search.

    Order: descending cosine, of equal ones the smaller position first. Takes
    O(L D) per candidate; see `GSUTopK` for the memory.

    Reference: MUSE, arXiv 2512.07216.

    Args:
        k: int, behaviours kept for each candidate.
        **kwargs: see `keras.layers.Layer`.

    Example:
    >>> from muse_keras.models import CosineSearch, MUSE
    >>> model = MUSE(100, (3, 3, 3), 9, 5, 5, k=6, gsu="scl_cosine")
    >>> isinstance(model.search, CosineSearch)
    True
    """

    needs_vectors = True

    def call(
        self,
        candidates: CandidateView,
        behaviors: BehaviorView,
        with_similarities: bool = True,
    ) -> GSUResult:
        """Search; see `GSUTopK`."""
        return self.top_k(
            candidates.vectors,
            behaviors.vectors,
            behaviors.mask,
            behaviors.inverse_norms,
        )
