"""Converts list columns of Arrow to NumPy values and offsets, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def list_of(value_type: pa.DataType) -> pa.ListType:
    """Returns the type of lists, with the child name of the published files."""
    return pa.list_(pa.field("element", value_type))


def values_of(column: pa.Array | pa.ChunkedArray) -> npt.NDArray[Any]:
    """Returns a column as NumPy values; nulls raise a `ValueError`.

    With a null, integers would become floats, and floats would round ids.
    """
    if column.null_count:
        raise ValueError(
            f"column: expected no null. Received: {column.null_count} of "
            f"{len(column)}"
        )
    return np.asarray(column)


def list_values(column: pa.ListArray) -> npt.NDArray[np.generic]:
    """Returns the values of all lists without copying; nulls are an error."""
    return values_of(column.flatten())


def list_offsets(column: pa.ListArray) -> Ints:
    """Returns int64 (N + 1,): where each list starts in `list_values`."""
    offsets = np.asarray(column.offsets, np.int64)
    return offsets - offsets[0]


def list_lengths(column: pa.Array, of_null: int = 0) -> Ints:
    """Returns the lengths of N lists, int64 (N,); ``of_null`` for null."""
    lengths = pc.fill_null(pc.list_value_length(column), of_null)
    return values_of(lengths).astype(np.int64)


def list_array(
    values: npt.ArrayLike, offsets: npt.ArrayLike, value_type: pa.DataType
) -> pa.ListArray:
    """Builds N lists from flat values and offsets (N + 1,), see `list_of`."""
    bounds = np.asarray(offsets)
    if bounds[-1] > np.iinfo(np.int32).max:
        raise ValueError(
            "values: expected fewer than 2**31 in one column. Received: "
            f"{int(bounds[-1])}"
        )
    flat = pa.array(np.ascontiguousarray(values), value_type)
    return pa.Array.from_buffers(
        list_of(value_type),
        len(bounds) - 1,
        [None, pa.py_buffer(bounds.astype(np.int32))],
        children=[flat],
    )


def with_column(
    batch: pa.RecordBatch, name: str, array: pa.Array
) -> pa.RecordBatch:
    """Returns a batch with one of its columns replaced."""
    index = batch.schema.get_field_index(name)
    columns = list(batch.columns)
    columns[index] = array
    field = batch.schema.field(index).with_type(array.type)
    schema = batch.schema.set(index, field)
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def matrix_lists(
    matrix: npt.NDArray[Any], value_type: pa.DataType
) -> pa.ListArray:
    """Builds a list column from the rows of a matrix (N, W)."""
    rows, width = matrix.shape
    return list_array(
        matrix.reshape(-1), np.arange(rows + 1) * width, value_type
    )


def ranges(starts: Ints, lengths: Ints) -> Ints:
    """Returns the concatenated positions of several ranges, int64."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - lengths), lengths)


def find_sorted(keys: Ints, values: Ints) -> tuple[Ints, Mask]:
    """Returns for N values a place in sorted keys and whether it is a match."""
    if not len(keys):
        return np.zeros(len(values), np.int64), np.zeros(len(values), bool)
    places = np.minimum(np.searchsorted(keys, values), len(keys) - 1)
    return places, keys[places] == values


def rank_in_group(sorted_groups: Ints) -> Ints:
    """Numbers the entries of each run of equal values from 0."""
    size = len(sorted_groups)
    first = np.r_[True, sorted_groups[1:] != sorted_groups[:-1]][:size]
    starts = np.flatnonzero(first)
    return np.arange(size) - np.repeat(starts, np.diff(np.r_[starts, size]))
