"""Writing rows of a variable."""

from typing import Any

import keras

from muse_keras.tables.row_gather import raw_variable


def assign_rows(variable: Any, rows: Any, values: Any) -> None:
    """Write some rows of a variable, in place where the backend can.

    Under `tf.distribute` the replica's own copy is written.

    Args:
        variable: `keras.Variable` of shape (rows, ...).
        rows: integers (n,), each once.
        values: (n, ...), the variable's dtype.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        raw_variable(variable).scatter_update(tf.IndexedSlices(values, rows))
    elif backend == "torch":
        variable.value.data[rows] = values
    else:
        variable.assign(variable.value.at[rows].set(values))
