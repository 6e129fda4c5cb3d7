"""Picking positions of a history."""

from typing import Any

import keras
from keras import ops


def take_positions(values: Any, indices: Any) -> Any:
    """Return `values[b, indices[b, ...]]`, and 0 from an empty history.

    Values are integers (B, L) or (B, L, V); the result has their dtype, and
    the shape of the int32 `indices` (B, ...) and of V.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # One GatherV2 (`ops.take_along_axis` would do index arithmetic), of
        # int64, since TensorFlow keeps int32 on the host. The extra column
        # is there to be read when L is 0.
        wide = tf.cast(values, tf.int64)
        count = tf.shape(wide)[0]
        extra = tf.zeros([count, 1, *values.shape[2:]], tf.int64)
        wide = tf.concat([wide, extra], axis=1)
        taken = tf.gather(wide, indices, axis=1, batch_dims=1)
        return tf.cast(taken, values.dtype)
    if len(values.shape) == 3:
        return take_vectors_at(values, indices)
    values = ops.pad(values, [[0, 0], [0, 1]])
    shape = ops.shape(indices)
    flat = ops.reshape(indices, (shape[0], -1))
    return ops.reshape(ops.take_along_axis(values, flat, axis=1), shape)


def take_vectors_at(vectors: Any, indices: Any) -> Any:
    """Return `vectors[b, indices[b, ...]]`, and zeros from an empty history.

    Vectors are (B, L, D). A ranker reads from its table instead.
    """
    vectors = ops.pad(ops.convert_to_tensor(vectors), [[0, 0], [0, 1], [0, 0]])
    shape = ops.shape(indices)
    flat = ops.reshape(ops.cast(indices, "int32"), (shape[0], -1, 1))
    taken = ops.take_along_axis(vectors, flat, axis=1)
    return ops.reshape(taken, (*shape, vectors.shape[-1]))


def take_scores_at(scores: Any, indices: Any, mask: Any) -> Any:
    """Return scores (B, C, H, L) of positions int32 (B, C, K), masked by 0.

    The result is (B, C, H, K); it is 0 from an empty history.
    """
    scores = ops.pad(scores, [[0, 0], [0, 0], [0, 0], [0, 1]])
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        taken = tf.gather(scores, indices, axis=3, batch_dims=2)
    else:
        places = ops.expand_dims(indices, 2)
        shape = (*ops.shape(scores)[:3], indices.shape[-1])
        places = ops.broadcast_to(places, shape)
        taken = ops.take_along_axis(scores, places, axis=3)
    return taken * ops.expand_dims(ops.cast(mask, scores.dtype), 2)


def newest_positions(mask: Any, count: int) -> tuple[Any, Any]:
    """Return the positions of the newest real behaviors, newest first.

    Padding may stand anywhere in `mask` (B, L). Returns int32 (B, count), 0
    where there is none, and a bool mask (B, count).
    """
    if keras.backend.backend() == "tensorflow":
        return _newest_by_count(mask, count)
    batch, length = ops.shape(mask)
    position = ops.arange(0, length, dtype="float32")
    keys = ops.where(mask, position, -ops.ones_like(position))
    padding = ops.full((batch, count), -1.0, dtype="float32")
    keys, _ = ops.top_k(ops.concatenate([keys, padding], axis=1), count)
    found = keys >= 0.0
    return ops.cast(ops.maximum(keys, 0.0), "int32"), found


def _newest_by_count(mask: Any, count: int) -> tuple[Any, Any]:
    """Return `newest_positions` on TensorFlow.

    The n-th real behavior is where the number of them reaches n: a running sum
    and a binary search take a tenth of the time of a top-K.
    """
    import tensorflow as tf

    # int64: TensorFlow keeps int32 arithmetic on the host.
    real = tf.cast(mask, tf.int64)
    wanted = tf.reduce_sum(real, axis=1, keepdims=True) - tf.range(
        count, dtype=tf.int64
    )
    positions = tf.searchsorted(
        tf.cumsum(real, axis=1), wanted, out_type=tf.int64
    )
    found = wanted >= 1
    positions = tf.where(found, positions, tf.zeros_like(positions))
    return tf.cast(positions, tf.int32), found
