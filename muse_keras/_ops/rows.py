"""Rows of a variable, and the backend's own variable."""

from typing import Any

import keras


def raw_variable(variable: Any) -> Any:
    """Return the backend's own variable, or the argument if it is none.

    Under `tf.distribute` this is the replica's own copy: the container of all
    copies cannot be gathered from without reading a whole one.
    """
    value = variable
    if isinstance(variable, keras.Variable):
        value = variable.value
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if isinstance(value, tf.distribute.DistributedValues):
            if tf.distribute.in_cross_replica_context():
                strategy = tf.distribute.get_strategy()
                return strategy.experimental_local_results(value)[0]
            from muse_keras.tensorflow import internals

            return internals.replica_variable(value)
    return value


def table_rows(variable: Any) -> int:
    """Return the number of rows of a table, held here or not."""
    divided = getattr(variable, "row_shards", None)
    return divided.rows if divided else variable.shape[0]


def assign_rows(variable: Any, rows: Any, values: Any) -> None:
    """Write values to some rows of a variable, in place where possible.

    Each row may be given once. Under `tf.distribute` the replica's own copy is
    written.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        raw_variable(variable).scatter_update(tf.IndexedSlices(values, rows))
    elif backend == "torch":
        variable.value.data[rows] = values
    else:
        variable.assign(variable.value.at[rows].set(values))
