"""Top-K with a defined order among equal scores, on every backend."""

from typing import Any

import keras
from keras import ops

# TensorFlow and JAX document that the lower index comes first among equals.
_ORDERED_BACKENDS = ("tensorflow", "jax")


def stable_top_k(scores: Any, k: int) -> tuple[Any, Any]:
    """Return the K highest scores, the smaller index first among equals.

    Where the backend's own top-K leaves the order of equal scores open
    (PyTorch), two passes make it definite: the first finds the K-th highest
    value, the second keeps everything above it and, of what equals it, the
    smallest indices; a stable sort of those K then gives the order.

    Args:
        scores: float32 (..., L) with L >= k and L <= 2**23, no NaN.
        k: int, how many.

    Returns:
        Tuple of values float32 (..., k), descending, and int32 indices
        (..., k).
    """
    if keras.backend.backend() in _ORDERED_BACKENDS:
        values, indices = ops.top_k(scores, k)
        return values, ops.cast(indices, "int32")
    return _two_pass_top_k(scores, k)


def _two_pass_top_k(scores: Any, k: int) -> tuple[Any, Any]:
    """Return what `stable_top_k` promises from a top-K that does not."""
    size = scores.shape[-1]
    threshold = ops.top_k(scores, k)[0][..., -1:]
    # Distinct keys, exact in float32: above the threshold in (L, 2L], at it
    # in (0, L], each falling with the index.
    falling = ops.arange(size, 0, -1, dtype="float32")
    keys = ops.where(
        scores > threshold,
        falling + size,
        ops.where(scores == threshold, falling, -1.0),
    )
    _, indices = ops.top_k(keys, k)
    values = ops.take_along_axis(scores, indices, axis=-1)
    order = ops.argsort(-values, axis=-1)
    return (
        ops.take_along_axis(values, order, axis=-1),
        ops.cast(ops.take_along_axis(indices, order, axis=-1), "int32"),
    )
