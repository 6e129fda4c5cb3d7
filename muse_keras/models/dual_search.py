"""MISS's search: ids and content side by side."""

from typing import Any

from keras import ops

from muse_keras._export import muse_keras_export
from muse_keras._ops.checks import integer
from muse_keras.layers.gsu_top_k import GSUTopK
from muse_keras.models.behavior_search import BehaviorSearch
from muse_keras.models.id_cosine_search import nearest_embeddings
from muse_keras.models.views import BehaviorView, CandidateView, FoundBehaviors


@muse_keras_export()
class DualSearch(BehaviorSearch):
    """Half of the K behaviors by trained embeddings, half by content.

    The first ceil(K / 2) places hold the behaviors of the highest cosine of
    trained embeddings (`IdCosineSearch`); the others those of
    the highest multimodal cosine (`CosineSearch`) that are not among the
    first, so that no behavior counts twice. K is the same in total as for
    every other search: a comparison is then about the searches alone.

    Order: each half by its descending cosine, of equal ones the smaller
    position first; unfilled places of the first half stay masked. Takes the
    time of both searches.

    Reference: the collaborative and the multimodal search unit of MISS,
    arXiv 2508.14515; as a baseline in MUSE, arXiv 2512.07216.

    Args:
        k: int of at least 2, behaviors kept for each candidate.
        **kwargs: see `keras.layers.Layer`.

    Example:
    >>> from muse_keras.models import DualSearch, MUSE
    >>> isinstance(MUSE(9, {}, {}, gsu="dual").search, DualSearch)
    True
    """

    def __init__(self, k: int = 50, **kwargs: Any) -> None:
        super().__init__(k=integer("k", k, minimum=2), **kwargs)
        self.by_ids = GSUTopK(self.k - self.k // 2, name="by_ids")
        # K, since up to half of them may be in the first half already.
        self.by_vectors = GSUTopK(self.k, name="by_vectors")

    def call(
        self, candidates: CandidateView, behaviors: BehaviorView
    ) -> FoundBehaviors:
        """Search; see the class."""
        first = nearest_embeddings(self.by_ids, candidates, behaviors)
        second = self.by_vectors(
            candidates.vectors,
            behaviors.vectors,
            behaviors.mask,
            behaviors.inverse_norms,
        )
        # Positions as float32: TensorFlow keeps int32 on the host.
        known = ops.cast(first.indices, "float32")
        known = ops.where(first.mask, known, -ops.ones_like(known))
        positions = ops.cast(second.indices, "float32")
        repeated = ops.any(
            ops.equal(ops.expand_dims(positions, 3), ops.expand_dims(known, 2)),
            axis=3,
        )
        new = ops.logical_and(second.mask, ops.logical_not(repeated))
        positions, new = _first_true(positions, new, self.k // 2)
        indices = ops.concatenate([ops.maximum(known, 0.0), positions], axis=2)
        mask = ops.concatenate([known, new - 1.0], axis=2) >= 0.0
        indices = ops.cast(indices, "int32")
        return FoundBehaviors.at(candidates, behaviors, indices, mask)


def _first_true(values: Any, chosen: Any, count: int) -> tuple[Any, Any]:
    """Return the first `count` chosen values, and 1 where there is one.

    All are float32 (B, C, N), and (B, C, count).
    """
    number = ops.cumsum(ops.cast(chosen, "float32"), axis=2)
    wanted = ops.expand_dims(ops.arange(1, count + 1, dtype="float32"), 1)
    hit = ops.logical_and(
        ops.equal(ops.expand_dims(number, 2), wanted),
        ops.expand_dims(chosen, 2),
    )
    # At most one hit in a row: a sum picks it without a gather.
    hit = ops.cast(hit, "float32")
    picked = ops.sum(hit * ops.expand_dims(values, 2), axis=3)
    return picked, ops.sum(hit, axis=3)
