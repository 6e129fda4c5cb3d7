"""Columns of features with a fixed number of values per row.

A row is a user, an item, a behavior or a candidate. A column with one value per
row is a flat array; others hold fixed-size lists, padded with missing values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from muse_tools.datasets.arrow_lists import (
    Ints,
    list_lengths,
    list_values,
    ranges,
    values_of,
    with_column,
)
from schemas.columns import Feature


def missing(feature: Feature) -> float | int:
    """Returns the value that stands for a missing one: NaN or 0."""
    return np.nan if feature.dtype == "float32" else 0


def filled(column: pa.Array, feature: Feature) -> pa.Array:
    """Returns a column with ``raw_width`` values in each row."""
    if not pa.types.is_list(column.type):
        return column
    lengths = list_lengths(column)
    values = np.full(
        len(column) * feature.raw_width, missing(feature), feature.dtype
    )
    starts = np.arange(len(column)) * feature.raw_width
    values[ranges(starts, lengths)] = list_values(column)
    return _of_width(values, feature.raw_width)


def with_filled(
    batch: pa.RecordBatch, features: Mapping[str, Feature]
) -> pa.RecordBatch:
    """Returns a batch in which the columns of some features are `filled`."""
    for field in batch.schema:
        if field.name in features and pa.types.is_list(field.type):
            column = batch.column(batch.schema.get_field_index(field.name))
            column = filled(column, features[field.name])
            batch = with_column(batch, field.name, column)
    return batch


def by_thing(column: pa.Array) -> npt.NDArray[Any]:
    """Returns the values of a filled column, (N,) or (N, W)."""
    if pa.types.is_fixed_size_list(column.type):
        values = values_of(column.flatten())
        return values.reshape(-1, column.type.list_size)
    return values_of(column)


def rows_or_missing(
    column: pa.Array | None, rows: Ints, feature: Feature
) -> pa.Array:
    """Returns a filled column of selected rows; row -1 gives missing values."""
    width, known = feature.raw_width, rows >= 0
    values = np.full((len(rows), width), missing(feature), feature.dtype)
    if column is not None:
        things = by_thing(column).reshape(-1, width)
        values[known] = things[rows[known]]
    return _of_width(values.reshape(-1), width)


def lists(offsets: npt.ArrayLike, column: pa.Array) -> pa.ListArray:
    """Groups the rows of a filled column into N lists of values.

    Args:
        offsets: integers (N + 1,), the first row of each list, and the end.
        column: the filled column.

    Raises:
        ValueError: if the lists have 2**31 values or more.
    """
    bounds = np.asarray(offsets, np.int64)
    if pa.types.is_fixed_size_list(column.type):
        bounds = bounds * column.type.list_size
        column = column.flatten()
    if bounds[-1] > np.iinfo(np.int32).max:
        raise ValueError(
            "column: expected fewer than 2**31 values in a batch. Received: "
            f"{int(bounds[-1])}"
        )
    return pa.ListArray.from_arrays(pa.array(bounds, pa.int32()), column)


def empty(feature: Feature) -> pa.Array:
    """Returns a filled column without rows."""
    return _of_width(np.zeros(0, feature.dtype), feature.raw_width)


def _of_width(values: npt.NDArray[Any], width: int) -> pa.Array:
    column = pa.array(values, from_pandas=False)
    if width == 1:
        return column
    return pa.FixedSizeListArray.from_arrays(column, width)
