"""Static shapes where known, dynamic ones where not."""

from typing import Any

from keras import ops

from muse_keras._ops.checks import check_inputs, same_axes


def is_static(*dims: Any) -> bool:
    """Tell whether all dimensions are Python integers."""
    return all(isinstance(dim, int) for dim in dims)


def has_content(vectors: Any) -> Any:
    """Tell which vectors (..., D) are not zero, bool (...)."""
    return ops.any(ops.not_equal(vectors, 0.0), axis=-1)


def masked_mean(values: Any, mask: Any) -> Any:
    """Return the mean over axis 1 of real positions; zeros if there are none.

    Args:
        values: float (B, L, E).
        mask: bool (B, L), True = real.

    Returns:
        (B, E), the dtype of `values`.
    """
    weights = ops.cast(mask, "float32")
    count = ops.maximum(ops.sum(weights, axis=1, keepdims=True), 1.0)
    weights = ops.cast(weights / count, values.dtype)
    return ops.sum(values * ops.expand_dims(weights, -1), axis=1)


def weights_of(values: Any, sample_weight: Any) -> Any:
    """Return a weight for each value, of weights for some of its first axes.

    Args:
        values: float (B, C), or any shape; named `y_pred` in messages.
        sample_weight: numbers (B, C), or (B,) or (B, 1), the same for all of
            a row; or a single number.

    Returns:
        The shape and dtype of `values`.
    """
    weights = ops.cast(ops.convert_to_tensor(sample_weight), values.dtype)
    axes = same_axes(values)
    own = axes[: len(weights.shape)]
    if own == axes and weights.shape[-1] == 1:
        own = own[:-1] + "1"
    if weights.shape != ():
        check_inputs(y_pred=(values, axes), sample_weight=(weights, own))
    while len(weights.shape) < len(axes):
        weights = ops.expand_dims(weights, -1)
    return weights * ops.ones_like(values)
