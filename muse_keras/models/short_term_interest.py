"""Short-term interest: the newest behaviors seen from a candidate."""

from typing import Any, NamedTuple

import keras
from keras import ops

from muse_keras._export import muse_keras_export
from muse_keras._ops.cosine import cosine_matrix, cosine_parts
from muse_keras._ops.positions import newest_positions
from muse_keras.layers.gsu_top_k import GSUResult
from muse_keras.layers.sim_tier import SimTier
from muse_keras.layers.target_attention import TargetAttention
from muse_keras.models.views import BehaviorView


class RecentBehaviors(NamedTuple):
    """The newest behaviors of each request, newest first.

    Attributes:
        indices: int32 (B, R), positions in the history.
        mask: bool (B, R), True = real.
        embeddings: float (B, R, E), embeddings of ids and features.
        vectors: int8 (B, R, D), multimodal codes.
    """

    indices: Any
    mask: Any
    embeddings: Any
    vectors: Any


def newest_behaviors(behaviors: BehaviorView, count: int) -> RecentBehaviors:
    """Return the newest behaviors of each request, at most `count`."""
    indices, mask = newest_positions(behaviors.mask, count)
    newest = behaviors.at(indices)
    return RecentBehaviors(indices, mask, newest.embeddings, newest.vectors)


@muse_keras_export()
class ShortTermInterest(keras.layers.Layer):
    """Target attention and SimTier over the newest behaviors.

    Reference: MUSE, arXiv 2512.07216; DIN, arXiv 1706.06978.

    Args:
        num_heads: int, attention heads.
        activation: activation of the attention's projections.
        num_tiers: int, tiers of SimTier.
        tier_scale: str, `scale` of SimTier.
        **kwargs: see `keras.layers.Layer`.

    Call arguments:
        target: float (B, C, E), the candidates' embeddings.
        vectors: int8 (B, C, D), the candidates' multimodal codes.
        recent: `RecentBehaviors`.

    Output shape:
        Tuple of features `(B, C, num_tiers + E)`, float32 attention weights
        `(B, C, heads, R)`, and the similarities as a `GSUResult` of
        `(B, C, R)`, whose mask leaves out what has no multimodal vector.
    """

    def __init__(
        self,
        num_heads: int = 1,
        activation: Any = "silu",
        num_tiers: int = 20,
        tier_scale: str = "log1p",
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("autocast", False)
        super().__init__(**kwargs)
        self.attention = TargetAttention(
            num_heads=num_heads,
            activation=activation,
            dtype=self.dtype_policy,
            name="attention",
        )
        self.tiers = SimTier(
            num_tiers,
            scale=tier_scale,
            dtype=self.dtype_policy,
            name="sim_tier",
        )

    def build(
        self,
        target_shape: Any,
        vectors_shape: Any = None,
        recent_shape: Any = None,
    ) -> None:
        """Build the attention and the tiers."""
        self.attention.build(target_shape, target_shape)
        self.tiers.build()
        self.built = True

    def call(
        self, target: Any, vectors: Any, recent: RecentBehaviors
    ) -> tuple[Any, Any, GSUResult]:
        """Return features, attention weights and similarities."""
        attended, scores = self.attention(
            target,
            recent.embeddings,
            mask=recent.mask,
            return_attention_scores=True,
        )
        found = _similarities(vectors, recent)
        tiers = self.tiers(found.similarities, mask=found.mask)
        features = ops.concatenate([tiers, attended], axis=-1)
        return features, scores, found

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "num_heads": self.attention.num_heads,
            "activation": keras.activations.serialize(
                self.attention.activation
            ),
            "num_tiers": self.tiers.num_tiers,
            "tier_scale": self.tiers.scale,
        }


def _similarities(vectors: Any, recent: RecentBehaviors) -> GSUResult:
    """Return cosines of candidates and recent behaviors, in their order."""
    candidates = cosine_parts(vectors)
    behaviors = cosine_parts(recent.vectors)
    cosines = cosine_matrix(candidates, behaviors)
    real = ops.logical_and(recent.mask, behaviors.valid)
    mask = ops.logical_and(
        ops.expand_dims(candidates.valid, 2), ops.expand_dims(real, 1)
    )
    zeros = ops.zeros_like(cosines)
    # int32 cannot be broadcast on a GPU by TensorFlow; float32 can.
    indices = zeros + ops.expand_dims(ops.cast(recent.indices, "float32"), 1)
    return GSUResult(
        ops.where(mask, cosines, zeros), ops.cast(indices, "int32"), mask
    )
