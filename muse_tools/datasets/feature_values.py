"""Checks values of features and fills in missing ones.

Fields are those of `table_schemas`: their metadata hold the length of vectors
and how many values of a list are used.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from muse_tools.datasets import casting, decoding
from muse_tools.datasets.arrow_lists import (
    Mask,
    list_array,
    list_lengths,
    ranges,
    values_of,
)


def _declared(field: pa.Field, key: bytes) -> int:
    return int((field.metadata or {}).get(key, 0))


def many_of(field: pa.Field) -> int:
    """Returns how many values of lists are used, 0 for all."""
    return _declared(field, decoding.MANY)


def usable(column: pa.Array, field: pa.Field) -> tuple[Mask, Mask]:
    """Returns two masks (N,): rows of the declared length, of finite numbers.

    Null means missing and is usable, as is NaN outside of vectors.
    """
    dim = _declared(field, decoding.DIM)
    fits = np.ones(len(column), bool)
    finite = np.ones(len(column), bool)
    if dim:
        fits = np.isin(list_lengths(column, dim), dim)
    if pa.types.is_floating(casting.leaf(column.type)):
        values, rows = column, np.arange(len(column))
        if casting.is_list(column.type):
            values = column.flatten()
            rows = np.repeat(rows, list_lengths(column))
        numbers = values_of(pc.fill_null(values, np.nan))
        wrong = ~np.isfinite(numbers) if dim else np.isinf(numbers)
        finite[rows[wrong]] = False
    return fits, finite


def fill(column: pa.Array, field: pa.Field) -> pa.Array:
    """Fills the nulls in a column of `usable` rows and cuts longer lists.

    A missing category becomes 0, a number NaN, a vector all NaN, a list empty.
    Lists with more than ``many`` values keep the first ones.
    """
    dim, many = (_declared(field, k) for k in (decoding.DIM, decoding.MANY))
    kind = casting.leaf(column.type)
    missing = np.nan if pa.types.is_floating(kind) else 0
    if not casting.is_list(column.type):
        return pc.fill_null(column, missing) if column.null_count else column
    lengths = list_lengths(column)
    values = column.flatten()
    if values.null_count:
        values = pc.fill_null(values, missing)
    flat = values_of(values)
    if many and (lengths > many).any():
        starts = np.cumsum(lengths) - lengths
        lengths = np.minimum(lengths, many)
        flat = flat[ranges(starts, lengths)]
    elif not column.null_count and len(values) == len(column.values):
        return column
    if dim and column.null_count:
        whole = np.full((len(column), dim), np.nan, np.float32)
        whole[values_of(column.is_valid())] = flat.reshape(-1, dim)
        flat, lengths = whole.reshape(-1), np.full(len(column), dim)
    return list_array(flat, np.r_[0, np.cumsum(lengths)], kind)


def missing(column: pa.Array) -> int:
    """Counts the rows of a filled column in which the feature is missing."""
    if casting.is_list(column.type):
        lengths = list_lengths(column)
        first = pc.list_element(column.filter(pa.array(lengths > 0)), 0)
        return int((lengths == 0).sum()) + missing(first)
    values = values_of(column)
    empty = np.isnan(values) if values.dtype.kind == "f" else values == 0
    return int(empty.sum())


def longer(batch: pa.RecordBatch) -> dict[str, int]:
    """Counts, by name, the rows whose lists have more than ``many`` values."""
    found = {}
    for field in batch.schema:
        if many := _declared(field, decoding.MANY):
            lengths = list_lengths(batch[field.name])
            found[field.name] = int((lengths > many).sum())
    return found
