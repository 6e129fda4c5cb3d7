"""ETA's search: the Hamming distance of random hyperplane hashes."""

from typing import Any

from keras import ops

from muse_keras._export import muse_keras_export
from muse_keras._ops.blocks import top_products
from muse_keras._ops.checks import integer, seed_of
from muse_keras._ops.cosine import cosine_parts
from muse_keras._ops.hyperplanes import add_planes, signs
from muse_keras.models.behavior_search import BehaviorSearch
from muse_keras.models.views import BehaviorView, CandidateView, FoundBehaviors

_SOURCES = ("embeddings", "vectors")


@muse_keras_export()
class SimHashSearch(BehaviorSearch):
    """The K behaviors of the smallest Hamming distance to the candidate.

    A hash has one bit for each of `num_bits` random hyperplanes: on which
    side the vector lies. Two vectors at angle t differ in a bit with
    probability t / pi, so that with many bits the order becomes that of the
    cosine. The hyperplanes are drawn once, saved and never trained.

    Order: ascending distance, of equal ones (there are many) the newer first.
    A zero vector is not found and finds nothing. Takes O(L bits) per
    candidate, in blocks of bounded memory: distances are computed as exact
    products of signs, for which every device has a fast kernel.

    Reference: ETA, arXiv 2108.04468, which hashes trained embeddings.

    Args:
        dim: int, width of what is hashed.
        k: int, behaviors kept for each candidate.
        num_bits: int, bits of a hash.
        source: "embeddings", the trained ones of ids and features, or
            "vectors", the frozen multimodal ones.
        seed: int, for the hyperplanes.
        block_size: int, the most distances held at once, 4 bytes each.
        **kwargs: see `keras.layers.Layer`.

    Example:
    >>> from muse_keras.models import MUSE, SimHashSearch
    >>> isinstance(MUSE(9, {}, {}, gsu="simhash").search, SimHashSearch)
    True
    """

    def __init__(
        self,
        dim: int,
        k: int = 50,
        num_bits: int = 64,
        source: str = "embeddings",
        seed: int | None = None,
        block_size: int = 1 << 25,
        **kwargs: Any,
    ) -> None:
        super().__init__(k=k, **kwargs)
        if source not in _SOURCES:
            raise ValueError(
                f"`source` must be one of {_SOURCES}. "
                f"Received: source={source!r}"
            )
        self.dim = integer("dim", dim)
        self.num_bits = integer("num_bits", num_bits)
        self.source = source
        self.seed = seed_of(seed)
        self.block_size = integer("block_size", block_size)

    def build(self, input_shape: Any = None) -> None:
        """Draw the hyperplanes."""
        self.planes = add_planes(self, self.dim, self.num_bits, self.seed)
        self.built = True

    def call(
        self, candidates: CandidateView, behaviors: BehaviorView
    ) -> FoundBehaviors:
        """Search; see the class."""
        asked = cosine_parts(getattr(candidates, self.source))
        held = cosine_parts(getattr(behaviors, self.source))
        mask = ops.logical_and(ops.cast(behaviors.mask, "bool"), held.valid)
        # Newest first, so that at equal distances the newer one is chosen.
        _, places, found = top_products(
            signs(asked.vectors, self.planes),
            ops.flip(signs(held.vectors, self.planes), axis=1),
            ops.flip(ops.cast(mask, "float32"), axis=1),
            self.k,
            self.block_size,
        )
        found = ops.logical_and(found, ops.expand_dims(asked.valid, 2))
        last = ops.cast(ops.shape(behaviors.mask)[1], "float32") - 1.0
        indices = ops.where(found, last - places, ops.zeros_like(places))
        indices = ops.cast(indices, "int32")
        return FoundBehaviors.at(candidates, behaviors, indices, found)
