"""Attention of a candidate over behaviors (DIN)."""

from typing import Any

from keras import ops

from muse_keras._export import muse_keras_export
from muse_keras.layers.projected_attention import ProjectedAttention


@muse_keras_export()
class TargetAttention(ProjectedAttention):
    """Scaled dot product attention with the candidate as the query.

    Each candidate weighs the behaviors by `softmax((E W_k)(e W_q)' / sqrt(d))`
    and returns the weighted sum of `E W_v`. The softmax is computed in
    float32 under every dtype policy. Masked behaviors get weight exactly 0;
    without any real behavior the output and all weights are 0.

    Behaviors may be the same for all candidates of a request, (B, K, E),
    which projects them once, or each candidate's own, (B, C, K, E).

    Reference: DIN, arXiv 1706.06978; MUSE, arXiv 2512.07216.

    Args:
        num_heads: int, number of heads.
        key_dim: int, size of each head's query and key. None: the width of
            the target divided by `num_heads`.
        value_dim: int, size of each head's value. None: `key_dim`.
        activation: activation of the query, key and value projections, such
            as "silu", or None.
        kernel_initializer: initializer of the projections.
        use_bias: bool, projections with a bias that starts at 0.
        **kwargs: see `keras.layers.Layer`.

    Call arguments:
        target: float (B, C, E), or (B, E) for one candidate a request.
        behaviors: float (B, K, E') or, for candidates, (B, C, K, E').
        mask: bool (B, K) or (B, C, K), True = real. None: all are real.
            What is masked must be finite: its weight is 0.
        return_attention_scores: bool, also return the weights.

    Input shape:
        `(B, C, E)` and `(B, K, E')` or `(B, C, K, E')`; `(B, E)` and
        `(B, K, E')`

    Output shape:
        `(B, C, num_heads * value_dim)`; with `return_attention_scores` also
        float32 weights `(B, C, num_heads, K)`. Without the axis C for a
        target of rank 2.

    Example:
    >>> import numpy as np
    >>> from muse_keras.layers import TargetAttention
    >>> target = np.ones((2, 3, 8), "float32")
    >>> history = np.ones((2, 5, 8), "float32")
    >>> tuple(TargetAttention(num_heads=2)(target, history).shape)
    (2, 3, 8)
    """

    def build(
        self,
        target_shape: Any,
        behaviors_shape: Any,
        mask_shape: Any = None,
    ) -> None:
        """Make the projections."""
        self._check(target_shape, behaviors_shape, mask=mask_shape)
        self._build_projections(target_shape, behaviors_shape)
        self.built = True

    def call(
        self,
        target: Any,
        behaviors: Any,
        mask: Any = None,
        return_attention_scores: bool = False,
    ) -> Any:
        """Attend; see the class."""
        self._check(target, behaviors, mask=mask)
        one = len(target.shape) == 2
        if one:
            target = ops.expand_dims(target, 1)
        logits = self._logits(target, behaviors)
        return self._attend(
            logits, behaviors, mask, return_attention_scores, one
        )

    def compute_output_spec(
        self,
        target: Any,
        behaviors: Any,
        mask: Any = None,
        return_attention_scores: bool = False,
    ) -> Any:
        """Return the shapes and dtypes of `call`'s result."""
        self._check(target, behaviors, mask=mask)
        return self._output_spec(target, behaviors, return_attention_scores)
