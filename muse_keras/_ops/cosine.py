"""Cosine similarities of int8 codes or float vectors."""

from typing import Any, NamedTuple

import keras
from keras import ops


class CosineParts(NamedTuple):
    """What a vector contributes to a cosine.

    Attributes:
        vectors: float32 (..., D), finite; zeros where `valid` is False.
        squared_norms: float32 (...), > 0; 1 where `valid` is False.
        valid: bool (...), False for zero or non-finite vectors.
        exact: bool, True if `vectors` are integers.
    """

    vectors: Any
    squared_norms: Any
    valid: Any
    exact: bool


def cosine_parts(vectors: Any) -> CosineParts:
    """Prepare vectors (..., D) of any integer or float dtype for a cosine."""
    dtype = keras.backend.standardize_dtype(vectors.dtype)
    exact = keras.backend.is_int_dtype(dtype)
    vectors = ops.cast(vectors, "float32")
    if not exact:
        # Divide by the largest entry: squares neither overflow nor vanish.
        largest = ops.max(ops.abs(vectors), axis=-1, keepdims=True)
        usable = ops.logical_and(largest > 0.0, ops.isfinite(largest))
        vectors = ops.where(usable, vectors, ops.zeros_like(vectors))
        vectors = vectors / ops.where(usable, largest, ops.ones_like(largest))
    squared = ops.sum(vectors * vectors, axis=-1)
    valid = squared > 0.0
    squared = ops.where(valid, squared, ops.ones_like(squared))
    return CosineParts(vectors, squared, valid, exact)


def cosine_matrix(candidates: CosineParts, behaviors: CosineParts) -> Any:
    """Return the cosines of all pairs.

    For integer codes of up to 8 bits and 1,024 dimensions the scalar product
    and the squared norms are exact, so that the result is within two units
    in the last place, at most 1, and exactly 1 for parallel vectors.

    Args:
        candidates: `CosineParts` with vectors (B, C, D).
        behaviors: `CosineParts` with vectors (B, L, D).

    Returns:
        float32 (B, C, L); 0 where either vector is not valid.
    """
    products = ops.matmul(
        candidates.vectors, ops.transpose(behaviors.vectors, (0, 2, 1))
    )
    norms = ops.sqrt(
        ops.expand_dims(candidates.squared_norms, 2)
        * ops.expand_dims(behaviors.squared_norms, 1)
    )
    cosines = products / norms
    if candidates.exact and behaviors.exact:
        return cosines
    return ops.clip(cosines, -1.0, 1.0)
