"""Cosine similarities of int8 codes or float vectors."""

from typing import Any, NamedTuple

import keras
from keras import ops


class CosineParts(NamedTuple):
    """Vectors prepared for a cosine.

    Attributes:
        vectors: float32 (..., D), finite; zeros where `valid` is False.
        norms: float32 (...), > 0; 1 where `valid` is False.
        valid: bool (...), False for zero or non-finite vectors.
    """

    vectors: Any
    norms: Any
    valid: Any


def cosine_parts(vectors: Any) -> CosineParts:
    """Prepare vectors (..., D) of any integer or float dtype for a cosine."""
    dtype = keras.backend.standardize_dtype(vectors.dtype)
    vectors = ops.cast(vectors, "float32")
    if not keras.backend.is_int_dtype(dtype):
        # Divide by the largest entry: squares neither overflow nor vanish.
        largest = ops.abs(vectors[..., :1])
        # Not every backend has a maximum of an empty tensor.
        if 0 not in tuple(vectors.shape):
            largest = ops.max(ops.abs(vectors), axis=-1, keepdims=True)
        usable = ops.logical_and(largest > 0.0, ops.isfinite(largest))
        vectors = ops.where(usable, vectors, ops.zeros_like(vectors))
        vectors = vectors / ops.where(usable, largest, ops.ones_like(largest))
    squared = ops.sum(vectors * vectors, axis=-1)
    valid = squared > 0.0
    squared = ops.where(valid, squared, ops.ones_like(squared))
    return CosineParts(vectors, _square_root(squared), valid)


def cosine_matrix(candidates: CosineParts, behaviors: CosineParts) -> Any:
    """Return the cosines (B, C, L) of all pairs, 0 where one is not valid.

    For integer codes of up to 8 bits and 1,024 dimensions scalar products are
    exact and norms correctly rounded: a cosine is within two units in the last
    place, and the same for the same codes wherever they stand and on every
    backend.
    """
    products = ops.matmul(
        candidates.vectors, ops.transpose(behaviors.vectors, (0, 2, 1))
    )
    norms = ops.expand_dims(candidates.norms, 2) * ops.expand_dims(
        behaviors.norms, 1
    )
    return ops.clip(products / norms, -1.0, 1.0)


def cosines_of_found(candidates: Any, found: Any) -> Any:
    """Return cosines (B, C, K) of candidates and their own behaviors.

    Candidates are (B, C, D), behaviors (B, C, K, D), codes or floats. As exact
    as `cosine_matrix`; 0 where either vector is zero or not finite.
    """
    left, right = cosine_parts(candidates), cosine_parts(found)
    products = ops.matmul(right.vectors, ops.expand_dims(left.vectors, 3))
    norms = ops.expand_dims(left.norms, 2) * right.norms
    return ops.clip(ops.squeeze(products, 3) / norms, -1.0, 1.0)


def _square_root(squared: Any) -> Any:
    """Return the square root, the same bits for the same number.

    A float32 root may be an approximation that depends on the processor, on the
    place in the tensor and on what a compiler fuses it with; equal behaviors
    would then not tie. A float64 root always rounds to the right float32. JAX
    has no float64 and an exact float32 root.
    """
    if keras.backend.backend() == "jax":
        return ops.sqrt(squared)
    return ops.cast(ops.sqrt(ops.cast(squared, "float64")), "float32")
