"""Random hyperplane hashing: on which side of a plane a vector lies."""

from typing import Any

from keras import ops


def signs(vectors: Any, planes: Any) -> Any:
    """Return the side of each plane as float32 (..., bits): +1 or -1.

    `planes` (D, bits) are the normals; a vector on a plane counts as +1. The
    share of planes between two vectors is, on average, their angle over pi. No
    gradient flows through.
    """
    vectors = ops.cast(ops.stop_gradient(vectors), "float32")
    heights = ops.matmul(vectors, ops.cast(planes, "float32"))
    ones = ops.ones_like(heights)
    return ops.where(heights >= 0.0, ones, -ones)
