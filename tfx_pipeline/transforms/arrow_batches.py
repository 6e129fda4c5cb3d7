"""Arrow record batches as Beam elements.

A batch travels between workers as one Arrow IPC stream, so thousands of rows
are one element, and a slice does not carry the bytes of its whole batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from muse_tools.datasets.arrow_lists import values_of

# The 64-bit finalizer of MurmurHash3 spreads ids evenly over the partitions,
# even if they are small or share their low bits.
_MIX_1 = np.uint64(0xFF51AFD7ED558CCD)
_MIX_2 = np.uint64(0xC4CEB9FE1A85EC53)
_SHIFT = np.uint64(33)

# Histories repeat items and categories, so LZ4 makes them about three times
# smaller, which saves more time than it takes.
_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")


def serialize(batch: pa.RecordBatch) -> bytes:
    """Returns a record batch as a compressed Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=_OPTIONS) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def deserialize(data: bytes) -> pa.RecordBatch:
    """Returns the record batch of an Arrow IPC stream."""
    with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
        return reader.read_next_batch()


def concatenate(batches: Iterable[pa.RecordBatch]) -> pa.RecordBatch | None:
    """Concatenates batches of one schema; None if there are none."""
    parts = list(batches)
    if not parts:
        return None
    table = pa.Table.from_batches(parts).combine_chunks()
    columns = [
        chunked.chunk(0) if chunked.num_chunks else pa.array([], chunked.type)
        for chunked in table.columns
    ]
    return pa.RecordBatch.from_arrays(columns, schema=table.schema)


def column(batch: pa.RecordBatch, name: str) -> pa.Array:
    """Returns a column by its name."""
    return batch.column(batch.schema.get_field_index(name))


def numpy_column(batch: pa.RecordBatch, name: str) -> np.ndarray:
    """Returns a column without nulls as a NumPy array."""
    return values_of(column(batch, name))


def select(batch: pa.RecordBatch, names: Iterable[str]) -> pa.RecordBatch:
    """Returns a batch with some of the columns."""
    schema = pa.schema([batch.schema.field(name) for name in names])
    return pa.RecordBatch.from_arrays(
        [column(batch, name) for name in schema.names], schema=schema
    )


def append(batch: pa.RecordBatch, **columns: pa.Array) -> pa.RecordBatch:
    """Returns a batch with columns appended to its own."""
    schema = batch.schema
    for name, values in columns.items():
        schema = schema.append(pa.field(name, values.type))
    return pa.RecordBatch.from_arrays(
        [*batch.columns, *columns.values()], schema=schema
    )


def mix(ids: np.ndarray) -> np.ndarray:
    """Maps int64 ids (N,) one to one to evenly spread uint64 numbers (N,)."""
    mixed = np.ascontiguousarray(ids, dtype=np.int64).view(np.uint64)
    mixed = (mixed ^ (mixed >> _SHIFT)) * _MIX_1
    mixed = (mixed ^ (mixed >> _SHIFT)) * _MIX_2
    return mixed ^ (mixed >> _SHIFT)


def partition_of(ids: np.ndarray, partitions: int) -> np.ndarray:
    """Returns the partition of each id, int64 (N,) in [0, partitions)."""
    return (mix(ids) % np.uint64(partitions)).astype(np.int64)


def partition(
    batch: pa.RecordBatch, key: str, partitions: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yields each partition that has rows, and its rows.

    Args:
        batch: rows to distribute; a partition keeps their order.
        key: name of an int64 column.
        partitions: number of partitions.
    """
    assigned = partition_of(numpy_column(batch, key), partitions)
    return split(batch, assigned)


def split(
    batch: pa.RecordBatch, assigned: np.ndarray
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yields each part that has rows, and its rows, in their order.

    Args:
        batch: rows to distribute.
        assigned: the part of each row, integers (N,), at least 0.
    """
    order = np.argsort(assigned, kind="stable")
    ordered = pc.take(batch, pa.array(order))
    counts = np.bincount(assigned)
    start = 0
    for index in np.flatnonzero(counts):
        yield int(index), ordered.slice(start, int(counts[index]))
        start += int(counts[index])


def split_by_mask(
    rows: pa.RecordBatch, good: np.ndarray
) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """Returns the rows where `good`, bool (N,), is true, and the others."""
    if good.all():
        return rows, rows.slice(0, 0)
    return rows.filter(pa.array(good)), rows.filter(pa.array(~good))
