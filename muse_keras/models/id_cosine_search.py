"""SIM's soft search: cosine of trained embeddings."""

from typing import Any

from keras import ops

from muse_keras._export import muse_keras_export
from muse_keras.layers.gsu_top_k import GSUResult, GSUTopK
from muse_keras.models.behavior_search import BehaviorSearch
from muse_keras.models.views import BehaviorView, CandidateView, FoundBehaviors


@muse_keras_export()
class IdCosineSearch(BehaviorSearch):
    """The K behaviors of the highest cosine of trained embeddings.

    Embeddings are those of id and features, side by side, as they are now; no
    gradient flows through the search. Order: descending cosine, of equal ones
    the smaller position first. Takes O(L E) per candidate, in blocks of
    bounded memory.

    Reference: SIM (soft search), arXiv 2006.05639; as a baseline in MUSE,
    arXiv 2512.07216.

    Args:
        k: int, behaviors kept for each candidate.
        **kwargs: see `keras.layers.Layer`.

    Example:
    >>> from muse_keras.models import IdCosineSearch, MUSE
    >>> isinstance(MUSE(9, {}, {}, gsu="id_cosine").search, IdCosineSearch)
    True
    """

    def __init__(self, k: int = 50, **kwargs: Any) -> None:
        super().__init__(k=k, **kwargs)
        self.top_k = GSUTopK(k, name="gsu_top_k")

    def call(
        self, candidates: CandidateView, behaviors: BehaviorView
    ) -> FoundBehaviors:
        """Search; see the class."""
        found = nearest_embeddings(self.top_k, candidates, behaviors)
        return FoundBehaviors.at(
            candidates, behaviors, found.indices, found.mask
        )


def nearest_embeddings(
    top_k: GSUTopK, candidates: CandidateView, behaviors: BehaviorView
) -> GSUResult:
    """Return the behaviors of the highest cosine of trained embeddings."""
    return top_k(
        ops.stop_gradient(candidates.embeddings),
        ops.stop_gradient(behaviors.embeddings),
        behaviors.mask,
    )
