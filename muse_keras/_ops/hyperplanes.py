"""Random hyperplane hashing: on which side of a plane a vector lies."""

from typing import Any

import keras
from keras import ops


def add_planes(
    layer: keras.layers.Layer, dim: int, count: int, seed: int | None
) -> Any:
    """Add random normals (dim, count) to a layer, saved but never trained."""
    return layer.add_weight(
        shape=(dim, count),
        initializer=keras.initializers.RandomNormal(stddev=1.0, seed=seed),
        trainable=False,
        autocast=False,
        dtype="float32",
        name="planes",
    )


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
