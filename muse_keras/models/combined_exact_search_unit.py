"""Exact search units of an attention, SimTier, or both."""

from typing import Any

import keras
from keras import ops

from muse_keras._export import muse_keras_export
from muse_keras._ops.checks import integer, number
from muse_keras.layers.identity_signal import IdentitySignal
from muse_keras.layers.semantic_aware_target_attention import (
    SemanticAwareTargetAttention,
)
from muse_keras.layers.sim_tier import SimTier
from muse_keras.layers.target_attention import TargetAttention
from muse_keras.models.exact_search_unit import ExactSearchUnit
from muse_keras.models.views import BehaviorView, FoundBehaviors

_ATTENTIONS = (None, "ta", "sa_ta")


@muse_keras_export()
class CombinedExactSearchUnit(ExactSearchUnit):
    """An attention over id embeddings, SimTier over similarities, or both.

    The features are the tiers, then the identity signal, then the attended
    values. Without SimTier
    `count_tiers` still tells the raw counts; without an attention the weights
    are zeros.

    Reference: the ablation of the exact search unit in MUSE,
    arXiv 2512.07216.

    Args:
        attention: "ta" for `TargetAttention`, "sa_ta" for
            `SemanticAwareTargetAttention`, None for none.
        with_tiers: bool, SimTier among the features.
        num_heads: int, attention heads.
        activation: activation of the attention's projections.
        similarity_scale: float, where the learned factor on similarities
            starts in SA-TA, or None.
        num_tiers: int, tiers of SimTier.
        tier_scale: str, `scale` of SimTier.
        identity: bool, an `IdentitySignal` among the features.
        **kwargs: see `keras.layers.Layer`.

    Example:
    >>> import numpy as np
    >>> from muse_keras.models import CombinedExactSearchUnit, FoundBehaviors
    >>> unit = CombinedExactSearchUnit("ta", with_tiers=True, num_tiers=5)
    >>> found = FoundBehaviors(
    ...     indices=np.zeros((1, 2, 3), "int32"),
    ...     mask=np.ones((1, 2, 3), bool),
    ...     similarities=np.zeros((1, 2, 3), "float32"),
    ...     embeddings=np.ones((1, 2, 3, 8), "float32"),
    ... )
    >>> tuple(unit(np.ones((1, 2, 8), "float32"), found).shape)
    (1, 2, 13)
    """

    def __init__(
        self,
        attention: str | None = "sa_ta",
        with_tiers: bool = True,
        num_heads: int = 1,
        activation: Any = "silu",
        similarity_scale: float | None = 10.0,
        num_tiers: int = 20,
        tier_scale: str = "log1p",
        identity: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if attention not in _ATTENTIONS:
            raise ValueError(
                f"`attention` must be one of {_ATTENTIONS}. "
                f"Received: attention={attention!r}"
            )
        if attention is None and not with_tiers:
            raise ValueError(
                "A unit needs an `attention`, `with_tiers` or both. "
                f"Received: attention={attention}, with_tiers={with_tiers}"
            )
        self.kind = attention
        self.with_tiers = with_tiers
        self.num_heads = integer("num_heads", num_heads)
        self.activation = keras.activations.get(activation)
        if similarity_scale is not None:
            similarity_scale = number("similarity_scale", similarity_scale)
        self.similarity_scale = similarity_scale
        self.attention = None
        options: dict[str, Any] = {
            "num_heads": num_heads,
            "activation": activation,
            "dtype": self.dtype_policy,
            "name": "attention",
        }
        if attention == "sa_ta":
            self.attention = SemanticAwareTargetAttention(
                similarity_scale=similarity_scale, **options
            )
        elif attention == "ta":
            self.attention = TargetAttention(**options)
        self.identity = None
        if identity:
            self.identity = IdentitySignal(
                dtype=self.dtype_policy, name="identity"
            )
        self.tiers = SimTier(
            num_tiers,
            scale=tier_scale,
            learnable=with_tiers,
            dtype=self.dtype_policy,
            name="sim_tier",
        )

    def build(self, target_shape: Any) -> None:
        """Build the attention and the tiers."""
        if self.attention is not None:
            *pairs, width = target_shape
            self.attention.build(target_shape, (*pairs, None, width))
        self.tiers.build()
        self.built = True

    def call(
        self,
        target: Any,
        found: FoundBehaviors,
        history: BehaviorView | None = None,
        return_attention_scores: bool = False,
    ) -> Any:
        """Return features, and attention weights if asked for."""
        features = []
        if self.with_tiers:
            features.append(self.tiers(found.similarities, mask=found.mask))
        if self.identity is not None:
            signal = self.identity(
                found.similarities, found.same_item, found.ages, found.mask
            )
            features.append(signal)
        if self.attention is not None:
            guides = (found.similarities,) if self.kind == "sa_ta" else ()
            attended, scores = self.attention(
                target,
                found.embeddings,
                *guides,
                mask=found.mask,
                return_attention_scores=True,
            )
            features.append(attended)
        features = ops.concatenate(features, axis=-1)
        if not return_attention_scores:
            return features
        if self.attention is None:
            zeros = ops.zeros_like(ops.cast(found.mask, "float32"))
            scores = ops.expand_dims(zeros, 2)
        return features, scores

    def compute_output_shape(self, target_shape: Any) -> tuple[Any, ...]:
        """Return the shape of the features."""
        *pairs, width = target_shape
        if self.attention is None:
            width = 0
        if self.with_tiers:
            width += self.tiers.num_tiers
        if self.identity is not None:
            width += self.identity.width
        return (*pairs, width)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "attention": self.kind,
            "with_tiers": self.with_tiers,
            "num_heads": self.num_heads,
            "activation": keras.activations.serialize(self.activation),
            "similarity_scale": self.similarity_scale,
            "num_tiers": self.tiers.num_tiers,
            "tier_scale": self.tiers.scale,
            "identity": self.identity is not None,
        }


@muse_keras_export()
class SemanticExactSearchUnit(CombinedExactSearchUnit):
    """SA-TA over id embeddings and SimTier over similarities.

    Reference: MUSE, arXiv 2512.07216.

    Args:
        **kwargs: see `CombinedExactSearchUnit`, all but `attention` and
            `with_tiers`.

    Example:
    >>> from muse_keras.models import MUSE, SemanticExactSearchUnit
    >>> isinstance(MUSE(9, {}, {}).exact_search_unit, SemanticExactSearchUnit)
    True
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("sa_ta", True, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        config = super().get_config()
        del config["attention"], config["with_tiers"]
        return config
