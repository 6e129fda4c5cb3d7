"""From 64-bit ids to table rows, in graph code of any Keras backend."""

from typing import Any

import keras
import numpy as np
from keras import ops

from muse_keras.tables.row_gather import raw_variable


def backend_holds_int64() -> bool:
    """Tell whether tensors of the backend keep 64-bit integers."""
    probe = ops.convert_to_tensor(np.array([1 << 40], np.int64))
    return keras.backend.standardize_dtype(probe.dtype) == "int64"


def sorted_rows(item_ids: Any, ids: Any) -> Any:
    """Return `1 + index` of ids in a sorted vector by binary search, else 0.

    Every op has a GPU kernel in TensorFlow for these dtypes. Indices stay
    int64 until the end, since TensorFlow keeps int32 arithmetic on the host.

    Args:
        item_ids: int64 (N,), sorted, unique: a `keras.Variable`, a
            variable of the backend or a tensor.
        ids: int64 of any shape, any value.

    Returns:
        int32 of the shape of `ids`; 0 for id 0 and ids that are not there.
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
