"""Candidate features that the model looks up by table row."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from muse_keras.tables import ItemTable, gather_rows
from muse_keras.tables.array_blocks import read_blocks
from muse_keras.tables.row_gather import scatter_rows
from serving.export.vocabulary import Vocabulary


class ItemFeatures(tf.Module):
    """Vocabulary indices of the table's features that have a vocabulary.

    They are resolved at export, so that a client never sends an item's
    features, and stored in the narrowest type that holds them.
    """

    def __init__(
        self,
        item_table: ItemTable,
        vocabularies: Mapping[str, Vocabulary],
        spare_rows: int = 0,
    ) -> None:
        super().__init__(name="item_features")
        self._vocabularies = vocabularies
        self.by_field = {
            field: tf.Variable(
                _resolve(item_table.features[field], vocabulary, spare_rows),
                trainable=False,
                name=field,
            )
            for field, vocabulary in vocabularies.items()
        }

    def __call__(self, rows: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return int64 indices by field, of rows of any shape."""
        return {
            field: tf.cast(values, tf.int64)
            for field, values in self.stored(rows).items()
        }

    def indices(self, raw: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Return vocabulary indices of raw ids (N,), as they are stored."""
        return {
            field: tf.cast(
                self._vocabularies[field](ids), self.by_field[field].dtype
            )
            for field, ids in raw.items()
        }

    def stored(self, rows: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return indices as they are stored, by field."""
        return {
            field: gather_rows(variable, rows)
            for field, variable in self.by_field.items()
        }

    def write(
        self, rows: tf.Tensor, indices: Mapping[str, tf.Tensor]
    ) -> list[tf.Operation]:
        """Write `indices` into int64 rows (N,); return the operations."""
        return [
            scatter_rows(self.by_field[field], rows, values)
            for field, values in indices.items()
        ]


def _resolve(
    raw: npt.NDArray[np.int64], vocabulary: Vocabulary, spare_rows: int
) -> npt.NDArray[Any]:
    """Return the vocabulary index of every row's raw id, 0 in spare rows."""
    # Not int32: TensorFlow keeps int32 variables on the host.
    narrow = vocabulary.size - 1 <= np.iinfo(np.uint16).max
    resolved = np.zeros(
        len(raw) + spare_rows, np.uint16 if narrow else np.uint32
    )
    for block, ids in read_blocks(raw):
        resolved[block] = vocabulary.host_indices(ids)
    return resolved
