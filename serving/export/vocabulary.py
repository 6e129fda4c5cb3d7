"""Small vocabularies: raw 64-bit ids to indices, on the host and the device.

Index 0 is a missing value (raw id 0), entry i of the vocabulary has index
i + 1, and any other id has the index len(vocabulary) + 1.
"""

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from muse_keras.tables.id_index import sorted_rows
from muse_keras.tables.item_ids import as_int64, check_ids, rows_of
from muse_keras.tables.row_gather import gather_rows


class Vocabulary(tf.Module):
    """A vocabulary, as sorted keys and their indices.

    A `tf.lookup` table has only a CPU kernel. This class uses two variables and
    a binary search, so that it runs on the model's device.
    """

    def __init__(self, field: str, values: npt.ArrayLike) -> None:
        super().__init__(name=f"vocabulary_{field}")
        name = f"learned[{field!r}]"
        entries = as_int64(name, values)
        order = np.zeros(0, np.intp)
        if entries.size:
            order = check_ids(entries, name)
        self.size = len(entries) + 2
        # The search needs at least one key; 0 never matches.
        self._sorted = entries[order] if len(entries) else np.zeros(1, np.int64)
        # Row 0: not in the vocabulary. Row i + 1: the i-th sorted key.
        self._index_of_row = np.concatenate([[self.size - 1], order + 1])
        self._keys = tf.Variable(self._sorted, trainable=False, name="keys")
        self._indices = tf.Variable(
            self._index_of_row.astype(np.int64),
            trainable=False,
            name="indices",
        )

    def __call__(self, ids: tf.Tensor) -> tf.Tensor:
        """Return int64 indices of int64 ids of any shape, in a graph."""
        found = gather_rows(self._indices, sorted_rows(self._keys, ids))
        return tf.where(tf.equal(ids, 0), tf.zeros_like(found), found)

    def host_indices(self, ids: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Return int64 indices of ids of any shape, with NumPy."""
        raw = np.asarray(ids)
        found = self._index_of_row[rows_of(self._sorted, raw)]
        return np.where(raw == 0, 0, found).astype(np.int64)
