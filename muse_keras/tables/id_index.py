"""From 64-bit ids to table rows, in graph code of any Keras backend."""

from typing import Any

import keras
from keras import ops

from muse_keras._ops.rows import raw_variable
from muse_keras.tables import hash_index
from muse_keras.tables.row_gather import gather_frozen


def sorted_rows(item_ids: Any, ids: Any) -> Any:
    """Return `1 + index` of ids in sorted `item_ids`, else 0, as int32.

    A binary search; `item_ids` is int64 (N,), a variable or a tensor. Every op
    has a GPU kernel in TensorFlow for these dtypes; indices stay int64 until
    the end, since TensorFlow keeps int32 arithmetic on the host.
    """
    size = item_ids.shape[0]
    flat = ops.reshape(ids, (-1,))
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        values = raw_variable(item_ids)
        # The op itself: `tf.searchsorted` fails on an empty list of ids.
        index = tf.raw_ops.LowerBound(
            sorted_inputs=tf.expand_dims(values, 0),
            values=tf.expand_dims(flat, 0),
            out_type=tf.int64,
        )[0]
        index = tf.minimum(index, tf.constant(size - 1, tf.int64))
        stored = tf.gather(values, index)
    else:
        index = ops.cast(ops.searchsorted(item_ids, flat), "int64")
        index = ops.minimum(index, size - 1)
        stored = ops.take(item_ids, index, axis=0)
    found = ops.logical_and(ops.equal(stored, flat), ops.not_equal(flat, 0))
    rows = ops.where(found, index + 1, ops.zeros_like(index))
    return ops.cast(ops.reshape(rows, ops.shape(ids)), "int32")


def hash_ids(multiplier: Any, ids: Any) -> Any:
    """Return the uint64 hashes of int64 ids (TensorFlow); see `HashIndex`."""
    import tensorflow as tf

    bits = _spread(tf.bitcast(ids, tf.uint64)) * raw_variable(multiplier)
    return _spread(bits) * _uint64(hash_index.FINAL_MULTIPLIER)


def hashed_rows(
    item_ids: Any, pilots: Any, slots: Any, ids: Any, hashes: Any
) -> Any:
    """Return `1 + index` of ids through a `HashIndex`, else 0 (TensorFlow).

    The hash names a bucket, the bucket's pilot a slot, the slot the only id
    that it can be. Each step is a gather of single elements: an id costs three
    cache misses whatever the size of the table. All arithmetic is 64 bits wide:
    TensorFlow keeps int32 arithmetic on the host.
    """
    import tensorflow as tf

    pilot = gather_frozen(pilots, _scaled(hashes, pilots.shape[0]))
    factor = 2 * tf.cast(pilot, tf.uint64) + 1
    bits = hashes * (factor * _uint64(hash_index.PILOT_MULTIPLIER))
    slot = _scaled(bits, slots.shape[0])
    index = tf.cast(gather_frozen(slots, slot), tf.int64)
    same = tf.equal(gather_frozen(item_ids, index), ids)
    found = tf.logical_and(same, tf.not_equal(ids, 0))
    return tf.where(found, index + 1, tf.zeros_like(index))


def _uint64(value: int) -> Any:
    import tensorflow as tf

    return tf.constant(value, tf.uint64)


def _spread(bits: Any) -> Any:
    import tensorflow as tf

    shifted = tf.bitwise.right_shift(bits, _uint64(32))
    return tf.bitwise.bitwise_xor(bits, shifted)


def _scaled(bits: Any, size: int) -> Any:
    """Return the upper half of uint64 hashes, scaled to int64 [0, size)."""
    import tensorflow as tf

    upper = tf.bitwise.right_shift(bits, _uint64(32)) * _uint64(size)
    return tf.bitcast(tf.bitwise.right_shift(upper, _uint64(32)), tf.int64)
