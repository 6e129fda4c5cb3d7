"""The newest behaviors of a category."""

from typing import Any

import keras
from keras import ops

# Category and position in one int64: positions are below.
_SPAN = 1 << 32


def newest_of_category(
    candidates: Any, behaviors: Any, mask: Any, k: int
) -> tuple[Any, Any]:
    """Return the newest real behaviors of each candidate's category.

    A history is sorted by category, keeping its order, once; a candidate then
    needs a binary search and K reads. Category 0 (missing) finds nothing.

    Returns int32 positions (B, C, k), newest first, 0 where there is none, and
    a bool mask (B, C, k).
    """
    if keras.backend.backend() == "tensorflow":
        return _by_keys(candidates, behaviors, mask, k)
    candidates = ops.cast(candidates, "int32")
    categories = ops.where(mask, ops.cast(behaviors, "int32"), -1)
    # One more position, so that an empty history can be read.
    categories = ops.pad(categories, [[0, 0], [0, 1]], constant_values=-1)
    order = ops.cast(ops.argsort(categories, axis=1), "int32")
    ordered = ops.take_along_axis(categories, order, axis=1)
    start = _first_at_least(ordered, candidates)
    end = _first_at_least(ordered, candidates + 1)
    back = ops.arange(1, k + 1, dtype="int32")
    places = ops.expand_dims(end, 2) - back
    real = ops.expand_dims(candidates > 0, 2)
    found = ops.logical_and(real, places >= ops.expand_dims(start, 2))
    places = ops.where(found, places, ops.zeros_like(places))
    shape = ops.shape(places)
    positions = ops.take_along_axis(
        order, ops.reshape(places, (shape[0], -1)), axis=1
    )
    positions = ops.reshape(positions, shape)
    return ops.where(found, positions, ops.zeros_like(positions)), found


def _by_keys(
    candidates: Any, behaviors: Any, mask: Any, k: int
) -> tuple[Any, Any]:
    """Return `newest_of_category` on TensorFlow, in int64 arithmetic."""
    import tensorflow as tf

    candidates = tf.cast(candidates, tf.int64)
    categories = tf.cast(behaviors, tf.int64)
    categories = tf.where(mask, categories, -tf.ones_like(categories))
    keys = categories * _SPAN + tf.range(
        tf.shape(categories, tf.int64)[1], dtype=tf.int64
    )
    # One more position, so that an empty history can be read.
    extra = -tf.ones([tf.shape(keys)[0], 1], tf.int64)
    keys = tf.sort(tf.concat([keys, extra], axis=1), axis=1)

    def first_at_least(categories: Any) -> Any:
        return tf.searchsorted(keys, categories * _SPAN, out_type=tf.int64)

    start, end = first_at_least(candidates), first_at_least(candidates + 1)
    places = end[:, :, tf.newaxis] - tf.range(1, k + 1, dtype=tf.int64)
    found = tf.logical_and(
        (candidates > 0)[:, :, tf.newaxis], places >= start[:, :, tf.newaxis]
    )
    places = tf.where(found, places, tf.zeros_like(places))
    chosen = tf.gather(keys, places, axis=1, batch_dims=1)
    positions = chosen - candidates[:, :, tf.newaxis] * _SPAN
    positions = tf.where(found, positions, tf.zeros_like(positions))
    return tf.cast(positions, tf.int32), found


def _first_at_least(ordered: Any, values: Any) -> Any:
    """Return int32 (B, C), the first places of (B, L) not below values."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.searchsorted(ordered, values.contiguous(), out_int32=True)
    import jax

    places = jax.vmap(jax.numpy.searchsorted)(ordered, values)
    return ops.cast(places, "int32")
