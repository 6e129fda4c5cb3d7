"""List columns of Arrow as NumPy values and offsets, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def values_of(column: pa.Array | pa.ChunkedArray) -> npt.NDArray[Any]:
    """Returns a column as NumPy values: the way out of Arrow.

    Args:
        column: N values, none of them null: integers with a null would become
            floats, which round ids.

    Raises:
        ValueError: There is a null.
    """
    if column.null_count:
        raise ValueError(
            f"column: expected no null. Received: {column.null_count} of "
            f"{len(column)}"
        )
    return np.asarray(column)


def list_values(column: pa.ListArray) -> npt.NDArray[np.generic]:
    """Returns the concatenated values of a list column, without copying.

    Args:
        column: N lists; null lists and null values are not allowed.

    Returns:
        All values in order, as many as the offsets of `list_offsets` say.
    """
    return values_of(column.flatten())


def list_offsets(column: pa.ListArray) -> npt.NDArray[np.int64]:
    """Returns where each list starts and ends in `list_values`.

    Args:
        column: N lists, none of them null.

    Returns:
        int64 (N + 1,), starting at 0; list i is ``[offsets[i],
        offsets[i + 1])``.
    """
    offsets = np.asarray(column.offsets, np.int64)
    return offsets - offsets[0]


def list_array(
    values: npt.ArrayLike, offsets: npt.ArrayLike, value_type: pa.DataType
) -> pa.ListArray:
    """Builds a list column with the child name of the published files.

    Args:
        values: Concatenated values.
        offsets: N + 1 positions, from 0 to the number of values.
        value_type: Arrow type of the values.

    Returns:
        N lists.
    """
    bounds = np.asarray(offsets)
    if bounds[-1] > np.iinfo(np.int32).max:
        raise ValueError(
            "values: expected fewer than 2**31 in one column. Received: "
            f"{int(bounds[-1])}"
        )
    flat = pa.array(np.ascontiguousarray(values), value_type)
    return pa.Array.from_buffers(
        pa.list_(pa.field("element", value_type)),
        len(bounds) - 1,
        [None, pa.py_buffer(bounds.astype(np.int32))],
        children=[flat],
    )


def ranges(
    starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Returns the positions of several ranges, one after the other.

    Args:
        starts: int64 (N,), first position of each range.
        lengths: int64 (N,), its length, 0 or more.

    Returns:
        int64 (sum of lengths,): ``starts[0], starts[0] + 1, …``.
    """
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - lengths), lengths)


def rank_in_group(
    sorted_groups: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """Numbers the entries of each run of equal values from 0.

    Args:
        sorted_groups: (N,), equal values adjacent.

    Returns:
        int64 (N,): how many entries of the same run come before.
    """
    size = len(sorted_groups)
    if not size:
        return np.zeros(0, np.int64)
    first = np.r_[True, sorted_groups[1:] != sorted_groups[:-1]]
    starts = np.flatnonzero(first)
    return np.arange(size) - np.repeat(starts, np.diff(np.r_[starts, size]))
