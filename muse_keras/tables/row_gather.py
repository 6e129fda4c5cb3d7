"""Rows of a Keras variable, read and written on the device that holds it."""

from typing import Any

import keras
import numpy as np
from keras import ops

from muse_keras._ops.rows import raw_variable, table_rows
from muse_keras.tables.array_blocks import read_blocks
from muse_keras.tables.device_shards import (
    gather_shards,
    scatter_shards,
    shards_of,
)


def gather_rows(variable: Any, rows: Any) -> Any:
    """Return the rows of a table without copying or converting the table.

    On the TensorFlow backend the gather reads the `tf.Variable` itself, which
    has a GPU kernel for int8 (`GatherV2` has none), and the gradient of a
    trainable table is an `IndexedSlices` of the rows that were read. Give a
    table `autocast=False`: under a mixed precision policy an autocast
    variable would be cast as a whole before the gather.

    Args:
        variable: `keras.Variable` (or, on the TensorFlow backend,
            `tf.Variable`) of shape (rows, ...), any dtype.
        rows: int32 or int64 of any shape. A row outside the table, negative
            ones included, reads row 0, on every backend and device.

    A table that is divided among replicas (see `row_shards`) is read by all of
    them together.

    Returns:
        Tensor of shape `rows.shape + variable.shape[1:]`, the variable's
        dtype.

    Example:
    >>> import keras
    >>> table = keras.Variable([[0.0, 0.0], [1.0, 2.0]], autocast=False)
    >>> keras.ops.convert_to_numpy(gather_rows(table, [1, -1]))
    array([[1., 2.],
           [0., 0.]], dtype=float32)
    """
    size = table_rows(variable)
    # int64: on a GPU TensorFlow keeps int32 arithmetic on the host.
    rows = ops.cast(ops.convert_to_tensor(rows), _index_dtype())
    rows = ops.where((rows >= 0) & (rows < size), rows, ops.zeros_like(rows))
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if shards := shards_of(variable):
            return gather_shards(shards, rows)
        if getattr(variable, "row_shards", None):
            from muse_keras.tables.row_shards import gather_divided

            return gather_divided(variable, rows)
        if not variable.trainable:
            return gather_frozen(variable, rows)
        return tf.gather(raw_variable(variable), rows)
    return ops.take(variable, rows, axis=0)


def gather_frozen(variable: Any, rows: Any) -> Any:
    """Return rows of a variable that is not trained (TensorFlow), unchecked.

    Rows are int64 in [0, N). `ResourceGatherNd` takes half to two thirds of
    `ResourceGather`'s time on a CPU; its gradient is dense.
    """
    import tensorflow as tf

    return tf.gather_nd(raw_variable(variable), tf.expand_dims(rows, -1))


def scatter_rows(variable: Any, rows: Any, values: Any) -> Any:
    """Write rows of a variable in place, in a graph (TensorFlow).

    Rows are int64 (n,) in [0, N), each once. Returns the operation, or None
    when run eagerly.
    """
    import tensorflow as tf

    if shards := shards_of(variable):
        return scatter_shards(shards, rows, values)
    return tf.raw_ops.ResourceScatterUpdate(
        resource=raw_variable(variable).handle, indices=rows, updates=values
    )


def assign_blocks(variable: Any, values: Any) -> None:
    """Write `values` into a variable in place, one block after the other.

    Rows of the variable beyond those of `values` stay zero. Nothing is read
    for a table of which this process holds no rows.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        from muse_keras.tables.row_shards import is_held, write_rows

        if not is_held(variable):
            return
        for block, rows in read_blocks(values):
            write_rows(variable, block.start, rows)
    elif backend == "torch":
        for block, rows in read_blocks(values):
            variable.value[block] = ops.convert_to_tensor(rows)
    else:
        array = np.asarray(values)
        missing = variable.shape[0] - len(array)
        widths = [(0, missing)] + [(0, 0)] * (array.ndim - 1)
        variable.assign(np.pad(array, widths))


def read_rows(variable: Any, rows: Any) -> Any:
    """Return rows of a table outside of a step.

    All processes of a strategy give the same rows (int64) of a divided table.
    """
    if keras.backend.backend() != "tensorflow":
        return gather_rows(variable, rows)
    from muse_keras.tables import row_shards

    return row_shards.read_rows(variable, rows)


def holders(variable: Any) -> list[tuple[int, int, Any]]:
    """Return what holds rows of a table in this process.

    Each comes after its shard s of the S of the table, s and S: it holds the
    rows r with r % S = s, at place r // S.
    """
    if keras.backend.backend() != "tensorflow":
        return [(0, 1, variable)]
    from muse_keras.tables import row_shards

    return row_shards.holders(variable)


def shards_of_new(num_rows: int) -> int:
    """Return among how many replicas a table that is made now is divided."""
    if keras.backend.backend() != "tensorflow":
        return 1
    from muse_keras.tables.row_shards import shards_of

    return shards_of(num_rows)


def _index_dtype() -> str:
    return "int64" if keras.backend.backend() == "tensorflow" else "int32"
