"""Tables in TensorFlow's checkpoint files, written and read block by block.

A table of N rows is a tensor (P, S, ...): row r is at [r // S, r % S]. Each of
S writers has the rows of one column. TensorFlow reads a stored slice whole, so
a column is stored in slices of about `CHUNK_ROWS` rows of the table: a block of
rows costs a block of memory. Reading several slices at once is faster.
"""

import glob
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from muse_keras.tables.array_blocks import (
    CHUNK_ROWS,
    blocks,
    release_pages,
)

_FILE_BYTES = 1 << 26
# The time to open a tensor grows with the square of its slices.
_MOST_SLICES = 1024


class Column(NamedTuple):
    """The rows of one writer.

    Attributes:
        name: of the table.
        shards: S, number of columns.
        shard: which of them.
        rows: array or variable (P, ...), or what slices to arrays.
    """

    name: str
    shards: int
    shard: int
    rows: Any


def write(prefix: str, columns: Iterable[Column]) -> None:
    """Write columns into files that begin with `prefix`, for `merge`."""
    names: list[str] = []
    places: list[str] = []
    tensors: list[tf.Tensor] = []
    files = 0
    size = 0

    def save() -> None:
        nonlocal files, size
        tf.raw_ops.SaveV2(
            prefix=f"{prefix}.{files}",
            tensor_names=names,
            shape_and_slices=places,
            tensors=tensors,
        )
        for pending in (names, places, tensors):
            pending.clear()
        files, size = files + 1, 0

    for name, shards, shard, rows in columns:
        length, *width = rows.shape
        shape = (length, shards, *width)
        for block in stored_blocks(shape):
            values = np.asarray(rows[block])
            names.append(name)
            places.append(_slice(shape, block, shard))
            tensors.append(tf.constant(values[:, np.newaxis]))
            size += values.nbytes
            release_pages(rows)
            if size >= _FILE_BYTES:
                save()
    if names:
        save()


def merge(prefixes: Iterable[str], prefix: str) -> None:
    """Make one checkpoint of what writers wrote, without reading it."""
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=sorted(
            index.removesuffix(".index")
            for one in prefixes
            for index in glob.glob(f"{glob.escape(one)}.*.index")
        ),
        destination_prefix=prefix,
        delete_old_dirs=False,
    )


class StoredRows:
    """A table in a merged checkpoint; slices are read from the files.

    Args:
        prefix: str, of the checkpoint.
        name: str, of the table.
        rows: int, N; None: all that are stored.
    """

    def __init__(self, prefix: str, name: str, rows: int | None = None) -> None:
        reader = tf.train.load_checkpoint(prefix)
        self._prefix = prefix
        self._name = name
        self._stored = tuple(reader.get_variable_to_shape_map()[name])
        self.dtype = reader.get_variable_to_dtype_map()[name].as_numpy_dtype
        places, shards, *width = self._stored
        rows = places * shards if rows is None else rows
        self.shape = (rows, *width)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, block: slice) -> npt.NDArray[Any]:
        """Return rows (n, ...) of a block."""
        shards = self._stored[1]
        first, last = block.start // shards, -(-block.stop // shards)
        (values,) = read(
            self._prefix,
            self._name,
            self._stored,
            self.dtype,
            [slice(first, last)],
        )
        start = block.start - first * shards
        return values.numpy()[start : start + block.stop - block.start]


def read(
    prefix: Any,
    name: str,
    shape: tuple[int, ...],
    dtype: Any,
    places: Sequence[slice],
) -> list[tf.Tensor]:
    """Return the rows (n * S, ...) of each of some blocks, also in a graph.

    Args:
        prefix: str or string tensor (), of a merged checkpoint.
        name: str, of the table.
        shape: (P, S, ...), as it is stored.
        dtype: of the table.
        places: blocks of places.
    """
    # A slice that is named as it was stored is read without a copy.
    column = 0 if shape[1] == 1 else None
    found = tf.raw_ops.RestoreV2(
        prefix=prefix,
        tensor_names=[name] * len(places),
        shape_and_slices=[_slice(shape, block, column) for block in places],
        dtypes=[dtype] * len(places),
    )
    return [tf.reshape(values, [-1, *shape[2:]]) for values in found]


def stored_blocks(shape: tuple[int, ...]) -> list[slice]:
    """Return the blocks of places in which a tensor (P, S, ...) is stored."""
    places, shards = shape[:2]
    return [
        *blocks(
            places, max(CHUNK_ROWS // shards, -(-places // _MOST_SLICES), 1)
        )
    ]


def groups(shape: tuple[int, ...], dtype: tf.DType) -> Iterator[list[slice]]:
    """Yield stored blocks in groups that are read at once, of about 128 MB."""
    stored = stored_blocks(shape)
    size = (stored[0].stop or 1) * math.prod(shape[1:]) * dtype.size
    count = max(1, _FILE_BYTES // size)
    for start in range(0, len(stored), count):
        yield stored[start : start + count]


def _slice(
    shape: tuple[int, ...], block: slice, shard: int | None = None
) -> str:
    """Return the specification of a slice, of all columns or one."""
    column = "-" if shard is None else f"{shard},1"
    others = ":".join([column, *"-" * (len(shape) - 2)])
    sizes = " ".join(map(str, shape))
    return f"{sizes} {block.start},{block.stop - block.start}:{others}"
