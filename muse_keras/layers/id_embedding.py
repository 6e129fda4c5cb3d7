"""An embedding table for ids, made for sparse updates."""

from typing import Any

import keras
from keras import ops

from muse_keras._export import muse_keras_export
from muse_keras._keras_internals import keep_arrays
from muse_keras._ops.checks import (
    check_indices,
    check_inputs,
    integer,
    same_axes,
)
from muse_keras.tables import gather_rows
from muse_keras.tables.array_blocks import CHUNK_ROWS
from muse_keras.tables.row_gather import assign_blocks, shards_of_new


@muse_keras_export()
class IdEmbedding(keras.layers.Layer):
    """Trained vectors of table rows or vocabulary indices.

    Unlike `keras.layers.Embedding` its gradient stays a list of the rows that
    were read on the TensorFlow backend, also under mixed precision, and its
    table is marked so that `muse_keras.optimizers.RowSparseAdam` moves only
    touched rows. A NumPy array is refused if a row is outside the table. A
    tensor is not looked into, which would hold up the device: such a row
    reads row 0 there.

    Args:
        num_rows: int, rows of the table.
        dim: int, width of a vector.
        embeddings_initializer: initializer of the table.
        **kwargs: see `keras.layers.Layer`.

    Call arguments:
        rows: integer of any shape.

    Input shape:
        `(...)`

    Output shape:
        `(..., dim)`, the layer's compute dtype.

    Example:
    >>> import numpy as np
    >>> from muse_keras.layers import IdEmbedding
    >>> tuple(IdEmbedding(10, 4)(np.array([[1, 2, 0]])).shape)
    (1, 3, 4)
    """

    def __init__(
        self,
        num_rows: int,
        dim: int,
        embeddings_initializer: Any = "uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # NumPy arrays must reach `call` as they are, to be checked.
        keep_arrays(self)
        self.num_rows = integer("num_rows", num_rows)
        self.dim = integer("dim", dim)
        self.embeddings_initializer = keras.initializers.get(
            embeddings_initializer
        )
        self.supports_masking = False

    def build(self, input_shape: Any = None) -> None:
        """Make the table, or its part on each replica of a strategy."""
        shards = shards_of_new(self.num_rows)
        in_blocks = self._is_drawn_in_blocks()
        self.embeddings = self.add_weight(
            shape=(-(-self.num_rows // shards), self.dim),
            initializer="zeros" if in_blocks else self.embeddings_initializer,
            autocast=False,
            name="embeddings",
        )
        self.embeddings.row_sparse = True
        if shards > 1:
            from muse_keras.tables.row_shards import divide

            divide(self.embeddings, self.num_rows)
        if in_blocks:
            assign_blocks(
                self.embeddings,
                _InitialRows(
                    self.embeddings_initializer, self.embeddings, self.num_rows
                ),
            )
        self.built = True

    def call(self, rows: Any) -> Any:
        """Return the vectors of rows; see the class."""
        check_indices("rows", rows, self.num_rows, "the rows of the table")
        rows = ops.convert_to_tensor(rows)
        check_inputs(rows=(rows, same_axes(rows), "integers"))
        vectors = gather_rows(self.embeddings, rows)
        return ops.cast(vectors, self.compute_dtype)

    def compute_output_spec(self, rows: Any) -> Any:
        """Return the shape and dtype of `call`'s result."""
        check_inputs(rows=(rows, same_axes(rows), "integers"))
        shape = (*tuple(rows.shape), self.dim)
        return keras.KerasTensor(shape, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            **super().get_config(),
            "num_rows": self.num_rows,
            "dim": self.dim,
            "embeddings_initializer": keras.initializers.serialize(
                self.embeddings_initializer
            ),
        }

    def _is_drawn_in_blocks(self) -> bool:
        """Tell whether initial values are never in memory twice (TensorFlow).

        A replica then draws the blocks of the whole table, and keeps its rows.
        In a function that is being traced, variables have no values yet.
        """
        if keras.backend.backend() != "tensorflow":
            return False
        import tensorflow as tf

        is_large = self.num_rows > CHUNK_ROWS and tf.executing_eagerly()
        return is_large or shards_of_new(self.num_rows) > 1


class _InitialRows:
    """The initial values of a table, each block drawn when it is read."""

    def __init__(self, initializer: Any, variable: Any, num_rows: int) -> None:
        self._initializer = initializer
        self._variable = variable
        self._num_rows = num_rows

    def __len__(self) -> int:
        return self._num_rows

    def __getitem__(self, block: slice) -> Any:
        """Return values (n, dim); the first row of the block moves the seed."""
        drawn = self._initializer
        seed = getattr(drawn, "seed", None)
        if block.start and isinstance(seed, int):
            config = {**drawn.get_config(), "seed": seed + block.start}
            drawn = type(drawn).from_config(config)
        shape = (block.stop - block.start, *self._variable.shape[1:])
        return ops.convert_to_numpy(drawn(shape, self._variable.dtype))
