"""Arrow record batches as Beam elements.

A batch travels between workers as one Arrow IPC stream: thousands of rows cost
one element, and a slice costs its own bytes rather than those of the batch it
was cut from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = [
    "concatenate",
    "deserialize",
    "numpy_column",
    "partition",
    "partition_of",
    "serialize",
]

# The 64-bit finaliser of MurmurHash3: ids that are small or share their low
# bits still spread evenly over the partitions.
_MIX_1 = np.uint64(0xFF51AFD7ED558CCD)
_MIX_2 = np.uint64(0xC4CEB9FE1A85EC53)
_SHIFT = np.uint64(33)


def serialize(batch: pa.RecordBatch) -> bytes:
    """Returns a record batch as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def deserialize(data: bytes) -> pa.RecordBatch:
    """Returns the record batch of an Arrow IPC stream."""
    with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
        return reader.read_next_batch()


def concatenate(parts: Iterable[bytes]) -> pa.RecordBatch | None:
    """Joins serialised batches of one schema; None when there are none."""
    batches = [deserialize(part) for part in parts]
    if not batches:
        return None
    table = pa.Table.from_batches(batches).combine_chunks()
    columns = [
        column.chunk(0) if column.num_chunks else pa.array([], column.type)
        for column in table.columns
    ]
    return pa.RecordBatch.from_arrays(columns, schema=table.schema)


def numpy_column(batch: pa.RecordBatch, name: str) -> np.ndarray:
    """Returns a column without nulls as a NumPy array."""
    index = batch.schema.get_field_index(name)
    return batch.column(index).to_numpy(zero_copy_only=False)


def partition_of(ids: np.ndarray, partitions: int) -> np.ndarray:
    """Returns the partition of each int64 id, int64 in [0, partitions)."""
    mixed = np.ascontiguousarray(ids, dtype=np.int64).view(np.uint64)
    mixed = (mixed ^ (mixed >> _SHIFT)) * _MIX_1
    mixed = (mixed ^ (mixed >> _SHIFT)) * _MIX_2
    mixed ^= mixed >> _SHIFT
    return (mixed % np.uint64(partitions)).astype(np.int64)


def partition(
    batch: pa.RecordBatch, key: str, partitions: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Cuts a batch by the partition of its key column.

    Args:
        batch: rows to distribute; their order is kept inside a partition.
        key: name of an int64 column.
        partitions: number of partitions.

    Yields:
        ``(partition, rows)`` for every partition that has rows.
    """
    assigned = partition_of(numpy_column(batch, key), partitions)
    order = np.argsort(assigned, kind="stable")
    ordered = pc.take(batch, pa.array(order))
    counts = np.bincount(assigned, minlength=partitions)
    start = 0
    for index in np.flatnonzero(counts):
        yield int(index), ordered.slice(start, int(counts[index]))
        start += int(counts[index])
