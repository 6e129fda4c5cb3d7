"""Random hyperplane hashing: on which side of a plane a vector lies."""

from typing import Any

from keras import ops


def signs(vectors: Any, planes: Any) -> Any:
    """Return the side of each plane, +1 (also on the plane) or -1.

    The share of planes between two vectors is, on average, their angle over
    pi. No gradient flows through.

    Args:
        vectors: float (..., D).
        planes: float32 (D, bits), the planes' normals.

    Returns:
        float32 (..., bits).
    """
    vectors = ops.cast(ops.stop_gradient(vectors), "float32")
    heights = ops.matmul(vectors, ops.cast(planes, "float32"))
    ones = ops.ones_like(heights)
    return ops.where(heights >= 0.0, ones, -ones)
