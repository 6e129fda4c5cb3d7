"""The interface of exact search units, and MUSE's."""

from typing import Any

import keras
from keras import ops

from muse_keras._export import muse_keras_export
from muse_keras.layers.gsu_top_k import GSUResult
from muse_keras.layers.semantic_aware_target_attention import (
    SemanticAwareTargetAttention,
)
from muse_keras.layers.sim_tier import SimTier


class ExactSearchUnit(keras.layers.Layer):
    """Models each candidate against the behaviours that a search found.

    Call arguments:
        target: float (B, C, E), the candidates' embeddings.
        behaviors: float (B, C, K, E), the found behaviours' embeddings.
        found: `GSUResult`.

    Output shape:
        Tuple of features `(B, C, ...)` and float32 attention weights
        `(B, C, heads, K)`; weights are zero where nothing was found.
    """

    def call(
        self, target: Any, behaviors: Any, found: GSUResult
    ) -> tuple[Any, Any]:
        """Return features and attention weights."""
        raise NotImplementedError

    def count_tiers(self, found: GSUResult) -> Any:
        """Return raw counts of similarities per tier, float32 (B, C, N)."""
        raise NotImplementedError


@muse_keras_export()
class SemanticExactSearchUnit(ExactSearchUnit):
    """SA-TA over id embeddings beside SimTier over similarities.

    Reference: MUSE, arXiv 2512.07216.

    Args:
        num_heads: int, attention heads.
        activation: activation of the attention's projections.
        similarity_scale: float, where the learned factor on similarities
            starts, or None.
        num_tiers: int, tiers of SimTier.
        tier_scale: str, `scale` of SimTier.
        **kwargs: see `keras.layers.Layer`.
    """

    def __init__(
        self,
        num_heads: int = 1,
        activation: Any = "silu",
        similarity_scale: float | None = 10.0,
        num_tiers: int = 20,
        tier_scale: str = "log1p",
        **kwargs: Any,
    ) -> None:
        """Set the arguments; see the class."""
        kwargs.setdefault("autocast", False)
        super().__init__(**kwargs)
        self.attention = SemanticAwareTargetAttention(
            num_heads=num_heads,
            activation=activation,
            similarity_scale=similarity_scale,
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
        behaviors_shape: Any,
        found_shape: Any = None,
    ) -> None:
        """Build the attention and the tiers."""
        self.attention.build(target_shape, behaviors_shape)
        self.tiers.build()
        self.built = True

    def call(
        self, target: Any, behaviors: Any, found: GSUResult
    ) -> tuple[Any, Any]:
        """Return features and attention weights; see the base class."""
        attended, scores = self.attention(
            target,
            behaviors,
            found.similarities,
            mask=found.mask,
            return_attention_scores=True,
        )
        tiers = self.tiers(found.similarities, mask=found.mask)
        return ops.concatenate([tiers, attended], axis=-1), scores

    def count_tiers(self, found: GSUResult) -> Any:
        """Return raw counts of similarities per tier, float32 (B, C, N)."""
        return self.tiers.count(found.similarities, found.mask)

    def compute_output_spec(
        self, target: Any, behaviors: Any, found: GSUResult
    ) -> tuple[Any, Any]:
        """Return the shapes and dtypes of `call`'s result."""
        attended, scores = self.attention.compute_output_spec(
            target,
            behaviors,
            found.similarities,
            return_attention_scores=True,
        )
        width = attended.shape[-1] + self.tiers.num_tiers
        features = keras.KerasTensor(
            (*attended.shape[:-1], width), self.compute_dtype
        )
        return features, scores

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        config = super().get_config()
        config.update(
            {
                "num_heads": self.attention.num_heads,
                "activation": keras.activations.serialize(
                    self.attention.activation
                ),
                "similarity_scale": self.attention.similarity_scale,
                "num_tiers": self.tiers.num_tiers,
                "tier_scale": self.tiers.scale,
            }
        )
        return config
