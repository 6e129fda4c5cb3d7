"""TWIN's search: by the score of the attention that follows."""

from typing import Any

from keras import ops

from muse_keras._export import muse_keras_export
from muse_keras._ops.blocks import top_products
from muse_keras._ops.checks import integer
from muse_keras.models.behavior_search import BehaviorSearch
from muse_keras.models.views import BehaviorView, CandidateView, FoundBehaviors


@muse_keras_export()
class TargetAttentionSearch(BehaviorSearch):
    """The K behaviors that the target attention itself weighs most.

    The scores are the logits of the exact search unit's attention over id
    embeddings, with its own projections, so that the search and the exact
    unit agree on what is relevant. With several heads their logits are
    summed. The projections are trained through the exact unit alone. Before
    an exact unit without such an attention, a ranker takes the short-term
    part's.

    Order: descending score, of equal ones the smaller position first. Takes
    O(L E) per candidate, after O(L E^2) per request, in blocks of bounded
    memory.

    Reference: TWIN, arXiv 2302.02352; as a baseline in MUSE,
    arXiv 2512.07216.

    Args:
        k: int, behaviors kept for each candidate.
        block_size: int, the most scores held at once, 4 bytes each.
        **kwargs: see `keras.layers.Layer`.

    Example:
    >>> from muse_keras.models import MUSE, TargetAttentionSearch
    >>> model = MUSE(100, {}, {}, k=6, gsu="target_attention")
    >>> isinstance(model.search, TargetAttentionSearch)
    True
    """

    def __init__(
        self, k: int = 50, block_size: int = 1 << 25, **kwargs: Any
    ) -> None:
        super().__init__(k=k, **kwargs)
        self.block_size = integer("block_size", block_size)

    def call(
        self, candidates: CandidateView, behaviors: BehaviorView
    ) -> FoundBehaviors:
        """Search; see the class."""
        _, positions, found = top_products(
            candidates.queries,
            behaviors.keys,
            behaviors.mask,
            self.k,
            self.block_size,
        )
        indices = ops.cast(positions, "int32")
        return FoundBehaviors.at(candidates, behaviors, indices, found)
