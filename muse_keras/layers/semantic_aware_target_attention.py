"""Target attention that also looks at multimodal similarities."""

from typing import Any

import keras
from keras import ops

from muse_keras._export import muse_keras_export
from muse_keras._ops.checks import number
from muse_keras.layers.projected_attention import ProjectedAttention


@muse_keras_export()
class SemanticAwareTargetAttention(ProjectedAttention):
    """Target attention over id embeddings, guided by similarities.

    Id embeddings know co-occurrence but little of rare items; multimodal
    similarities know content. The logits fuse both: with `a` the scaled dot
    product of id embeddings and `r` the similarity,
    `gamma_1 a + gamma_2 r + gamma_3 a r`, with the three gammas learned for
    each head from 1. Similarities stay float32 under every dtype policy.

    Reference: SA-TA in MUSE, arXiv 2512.07216. The published implementation
    has one head, `activation="silu"` and `similarity_scale=10.0`.

    Args:
        num_heads: int, number of heads.
        key_dim: int, size of each head's query and key. None: the width of
            the target divided by `num_heads`.
        value_dim: int, size of each head's value. None: `key_dim`.
        activation: activation of the query, key and value projections, such
            as "silu", or None.
        similarity_scale: float, where a learned factor on the similarities
            starts. None: no factor.
        kernel_initializer: initializer of the projections.
        use_bias: bool, projections with a bias that starts at 0.
        **kwargs: see `keras.layers.Layer`.

    Call arguments:
        target: float (B, C, E), or (B, E) for one candidate a request.
        behaviors: float (B, C, K, E') or (B, K, E').
        similarities: float (B, C, K), or (B, K) for a target of rank 2.
        mask: bool (B, C, K) or (B, K), True = real. None: all are real.
            What is masked must be finite: its weight is 0.
        return_attention_scores: bool, also return the weights.

    Input shape:
        `(B, C, E)`, `(B, C, K, E')` and `(B, C, K)`; `(B, E)`, `(B, K, E')`
        and `(B, K)`

    Output shape:
        `(B, C, num_heads * value_dim)`; with `return_attention_scores` also
        float32 weights `(B, C, num_heads, K)`. Without the axis C for a
        target of rank 2.

    Example:
    >>> import numpy as np
    >>> from muse_keras.layers import SemanticAwareTargetAttention
    >>> attention = SemanticAwareTargetAttention(activation="silu")
    >>> output, scores = attention(
    ...     np.ones((2, 3, 8), "float32"),
    ...     np.ones((2, 3, 5, 8), "float32"),
    ...     np.zeros((2, 3, 5), "float32"),
    ...     return_attention_scores=True,
    ... )
    >>> tuple(output.shape), tuple(scores.shape)
    ((2, 3, 8), (2, 3, 1, 5))
    """

    def __init__(
        self,
        num_heads: int = 1,
        key_dim: int | None = None,
        value_dim: int | None = None,
        activation: Any = None,
        similarity_scale: float | None = None,
        kernel_initializer: Any = "glorot_uniform",
        use_bias: bool = False,
        **kwargs: Any,
    ) -> None:
        # The inputs are cast in `call`, all but the similarities.
        kwargs.setdefault("autocast", False)
        super().__init__(
            num_heads=num_heads,
            key_dim=key_dim,
            value_dim=value_dim,
            activation=activation,
            kernel_initializer=kernel_initializer,
            use_bias=use_bias,
            **kwargs,
        )
        if similarity_scale is not None:
            similarity_scale = number("similarity_scale", similarity_scale)
        self.similarity_scale = similarity_scale
        self.learned_scale: Any = None

    def build(
        self,
        target_shape: Any,
        behaviors_shape: Any,
        similarities_shape: Any = None,
        mask_shape: Any = None,
    ) -> None:
        """Make the projections, the gammas and the scale."""
        self._check(
            target_shape, behaviors_shape, similarities_shape, mask_shape
        )
        self._build_projections(target_shape, behaviors_shape)
        self.gamma = self.add_weight(
            shape=(3, self.num_heads),
            initializer="ones",
            autocast=False,
            name="gamma",
        )
        if self.similarity_scale is not None:
            self.learned_scale = self.add_weight(
                shape=(),
                initializer=keras.initializers.Constant(self.similarity_scale),
                autocast=False,
                name="similarity_scale",
            )
        self.built = True

    def call(
        self,
        target: Any,
        behaviors: Any,
        similarities: Any,
        mask: Any = None,
        return_attention_scores: bool = False,
    ) -> Any:
        """Attend; see the class."""
        self._check(target, behaviors, similarities, mask)
        one = len(target.shape) == 2
        if one:
            target = ops.expand_dims(target, 1)
            similarities = ops.expand_dims(similarities, 1)
        target = ops.cast(target, self.compute_dtype)
        behaviors = ops.cast(behaviors, self.compute_dtype)
        logits = self._logits(target, behaviors)
        fused = self._fuse(logits, ops.cast(similarities, "float32"))
        return self._attend(
            fused, behaviors, mask, return_attention_scores, one
        )

    def compute_output_spec(
        self,
        target: Any,
        behaviors: Any,
        similarities: Any,
        mask: Any = None,
        return_attention_scores: bool = False,
    ) -> Any:
        """Return the shapes and dtypes of `call`'s result."""
        self._check(target, behaviors, similarities, mask)
        return self._output_spec(target, behaviors, return_attention_scores)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "similarity_scale": self.similarity_scale,
        }

    def _fuse(self, logits: Any, similarities: Any) -> Any:
        """Return the fused logits, float32 (B, C, heads, K)."""
        if self.learned_scale is not None:
            similarities = similarities * ops.cast(
                self.learned_scale, "float32"
            )
        similarities = ops.expand_dims(similarities, 2)
        gamma = ops.expand_dims(ops.cast(self.gamma, "float32"), -1)
        return (
            gamma[0] * logits
            + gamma[1] * similarities
            + gamma[2] * (logits * similarities)
        )
