"""Small vocabularies: raw 64-bit ids to indices, on the host and the device.

Index 0 is a missing value (raw id 0), entry i of the vocabulary is i + 1, and
anything else is len(vocabulary) + 1.
"""

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from muse_keras.tables.id_index import sorted_rows
from muse_keras.tables.item_ids import rows_of
from muse_keras.tables.row_gather import gather_rows


class Vocabulary(tf.Module):
    """One vocabulary, as sorted keys and their indices.

    A `tf.lookup` table has only a CPU kernel; this one is two variables and a
    binary search, so that it runs where the model runs.
    """

    def __init__(self, field: str, values: npt.ArrayLike) -> None:
        super().__init__(name=f"vocabulary_{field}")
        entries = _checked(field, values)
        order = np.argsort(entries)
        self.size = len(entries) + 2
        # A search needs a key; 0 is never found, whatever the keys.
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


def _checked(field: str, values: npt.ArrayLike) -> npt.NDArray[np.int64]:
    entries = np.asarray(values)
    if entries.size == 0:
        return np.zeros(0, np.int64)
    if entries.ndim != 1 or entries.dtype.kind not in "iu":
        raise ValueError(
            f"`vocabularies[{field!r}]` must be a vector of integers. "
            f"Received: shape={entries.shape}, dtype={entries.dtype}"
        )
    if (entries == 0).any():
        raise ValueError(
            f"`vocabularies[{field!r}]` must not contain 0, which means "
            f"missing. Received: 0 at {int(np.flatnonzero(entries == 0)[0])}"
        )
    unique, counts = np.unique(entries, return_counts=True)
    if len(unique) != len(entries):
        raise ValueError(
            f"`vocabularies[{field!r}]` must be unique. Received: "
            f"{unique[counts > 1][0]} more than once"
        )
    return entries.astype(np.int64)
