"""Features of items that the model looks up by table row."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from muse_keras.tables import ItemTable, gather_rows
from muse_keras.tables.array_blocks import read_blocks
from muse_keras.tables.row_gather import scatter_rows
from serving.export.encodings import Encoding


class ItemFeatures(tf.Module):
    """The encoded features of the table's items.

    They are encoded at export, so that clients never send features of items.
    Indices have the narrowest sufficient type, (rows,) or (rows, many);
    numbers are float32 (rows, width).
    """

    def __init__(
        self,
        item_table: ItemTable,
        encodings: Mapping[str, Encoding],
        spare_rows: int = 0,
    ) -> None:
        super().__init__(name="item_features")
        self._encodings = encodings
        self.by_field = {
            field: tf.Variable(
                _encoded(item_table.features[field], encoding, spare_rows),
                trainable=False,
                name=field,
            )
            for field, encoding in encodings.items()
        }

    def __call__(
        self, rows: tf.Tensor, fields: Collection[str] | None = None
    ) -> dict[str, tf.Tensor]:
        """Return encoded features by field, for rows of any shape.

        Indices are int64. `fields` selects the features; by default all.
        """
        return {
            field: tf.cast(values, tf.int64)
            if self._encodings[field].size
            else values
            for field, values in self.stored(rows, fields).items()
        }

    def encoded(self, raw: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Encode raw values of items, (N,) or (N, n), as they are stored."""
        return {
            field: tf.cast(
                self._encodings[field](values), self.by_field[field].dtype
            )
            for field, values in raw.items()
        }

    def stored(
        self, rows: tf.Tensor, fields: Collection[str] | None = None
    ) -> dict[str, tf.Tensor]:
        """Return features as they are stored, by field."""
        return {
            field: gather_rows(variable, rows)
            for field, variable in self.by_field.items()
            if fields is None or field in fields
        }

    def write(
        self, rows: tf.Tensor, encoded: Mapping[str, tf.Tensor]
    ) -> list[tf.Operation]:
        """Write `encoded` into int64 rows (N,); return the write operations."""
        return [
            scatter_rows(self.by_field[field], rows, values)
            for field, values in encoded.items()
        ]


def _encoded(
    raw: npt.NDArray[Any], encoding: Encoding, spare_rows: int
) -> npt.NDArray[Any]:
    """Return every row's encoded values; spare rows have missing values."""
    feature = encoding.feature
    width = (feature.raw_width,) if feature.many or feature.dim else ()
    rows = len(raw) + spare_rows
    if encoding.size:
        # int32 is avoided: TensorFlow keeps int32 variables on the host.
        narrow = encoding.size - 1 <= np.iinfo(np.uint16).max
        encoded = np.zeros((rows, *width), np.uint16 if narrow else np.uint32)
    else:
        encoded = np.zeros((rows, feature.width), np.float32)
    for block, values in read_blocks(raw):
        encoded[block] = encoding.on_host(values.reshape(-1, *width))
    encoded[0] = 0  # Unknown items have missing values.
    return encoded
