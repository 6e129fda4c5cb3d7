"""Top-K with a defined order among equal scores, on every backend."""

from typing import Any

import keras
from keras import ops

# TensorFlow and JAX document that the lower index comes first among equals.
_ORDERED_BACKENDS = ("tensorflow", "jax")


def stable_top_k(scores: Any, k: int) -> tuple[Any, Any]:
    """Return the K highest scores (..., k) and their int32 indices.

    The smaller index comes first among equals. `scores` are float32 (..., L)
    with k <= L <= 2**23 and no NaN. PyTorch leaves the order of equal scores
    open; there a first pass finds the K-th highest value, a second keeps all
    above it and the smallest indices at it, and a stable sort orders them.
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
