"""Cosine similarities of int8 codes or float vectors."""

from typing import Any, NamedTuple

import keras
from keras import ops


class CosineParts(NamedTuple):
    """What a vector contributes to a cosine.

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
        # Not every backend takes a maximum of nothing, though over D.
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
    """Return the cosines of all pairs.

    For integer codes of up to 8 bits and 1,024 dimensions scalar products
    are exact and norms correctly rounded, so that a cosine is within two
    units in the last place, and the same for the same codes wherever they
    stand and on every backend.

    Args:
        candidates: `CosineParts` with vectors (B, C, D).
        behaviors: `CosineParts` with vectors (B, L, D).

    Returns:
        float32 (B, C, L); 0 where either vector is not valid.
    """
    products = ops.matmul(
        candidates.vectors, ops.transpose(behaviors.vectors, (0, 2, 1))
    )
    norms = ops.expand_dims(candidates.norms, 2) * ops.expand_dims(
        behaviors.norms, 1
    )
    return ops.clip(products / norms, -1.0, 1.0)


def cosines_of_found(candidates: Any, found: Any) -> Any:
    """Return the cosine of each candidate with each of its own behaviours.

    As exact as those of `cosine_matrix`.

    Args:
        candidates: integer codes or floats (B, C, D).
        found: integer codes or floats (B, C, K, D).

    Returns:
        float32 (B, C, K); 0 where either vector is zero or not finite.
    """
    left, right = cosine_parts(candidates), cosine_parts(found)
    products = ops.matmul(right.vectors, ops.expand_dims(left.vectors, 3))
    norms = ops.expand_dims(left.norms, 2) * right.norms
    return ops.clip(ops.squeeze(products, 3) / norms, -1.0, 1.0)


def _square_root(squared: Any) -> Any:
    """Return the square root, the same bits for the same number.

    A float32 root may be an approximation that depends on the processor, on
    the position in the tensor (vector loop or its tail), and on what a
    compiler fuses it with; equal behaviours would then not tie. A float64
    root, off by a few of its units, always rounds to the right float32.
    JAX has no float64 and an exact float32 root.
    """
    if keras.backend.backend() == "jax":
        return ops.sqrt(squared)
    return ops.cast(ops.sqrt(ops.cast(squared, "float64")), "float32")
