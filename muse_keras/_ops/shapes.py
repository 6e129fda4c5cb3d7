"""Static shapes where known, dynamic ones where not."""

from typing import Any

from keras import ops


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
