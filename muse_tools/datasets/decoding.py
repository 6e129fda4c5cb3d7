"""Columns of files that become whole numbers: texts, times and scores."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from muse_tools.datasets import casting
from muse_tools.datasets.arrow_lists import list_lengths
from schemas.hashing import stable_ids

TEXT, TIME, AT_LEAST, FLAG = b"text", b"time", b"at_least", b"flag"
_WANTED = {
    TEXT: "string",
    TIME: "timestamp, date or int64 seconds",
    AT_LEAST: "a number",
    FLAG: "int64 or bool",
}


def _kind(field: pa.Field) -> bytes | None:
    return next((k for k in _WANTED if k in (field.metadata or {})), None)


def describe(field: pa.Field) -> str:
    """Returns what a column may hold, for messages."""
    kind = _kind(field)
    if kind is None:
        return casting.describe(field.type)
    known = _WANTED[kind]
    return f"list<{known}>" if casting.is_list(field.type) else known


def accepts(field: pa.Field, received: pa.DataType) -> bool:
    """Returns whether a column of a type can be decoded as a field."""
    kind, leaf, types = _kind(field), casting.leaf(received), pa.types
    if kind is None or types.is_null(received):
        return casting.accepts(field.type, received)
    if casting.is_list(field.type) != casting.is_list(received):
        return False
    if types.is_dictionary(leaf):
        leaf = leaf.value_type
    if kind == TEXT:
        return types.is_string(leaf) or types.is_large_string(leaf)
    if kind == FLAG:
        return types.is_boolean(leaf) or casting.accepts(field.type, leaf)
    if kind == TIME and (types.is_timestamp(leaf) or types.is_date(leaf)):
        return True
    return types.is_integer(leaf) or (
        kind == AT_LEAST and types.is_floating(leaf)
    )


def decode(array: pa.Array, field: pa.Field) -> pa.Array:
    """Returns the whole numbers that a column of a file stands for."""
    kind = _kind(field)
    if kind is None or pa.types.is_null(array.type):
        return array
    value = field.metadata[kind].decode()
    if casting.is_list(array.type):
        values = decode(array.flatten(), field)
        offsets = np.r_[0, np.cumsum(list_lengths(array))]
        return pa.ListArray.from_arrays(
            pa.array(offsets, pa.int32()),
            values,
            mask=array.is_null() if array.null_count else None,
        )
    if kind == TEXT:
        coded = array
        if not pa.types.is_dictionary(array.type):
            coded = array.dictionary_encode()
        ids = pa.array(stable_ids(value, coded.dictionary.to_pylist()))
        return pc.take(ids, coded.indices)
    if kind == FLAG:
        flags = pa.types.is_boolean(array.type)
        return array.cast(pa.int64()) if flags else array
    if kind == AT_LEAST:
        return pc.greater_equal(array, float(value)).cast(pa.int64())
    if pa.types.is_date(array.type):
        array = array.cast(pa.timestamp("s"))
    if not pa.types.is_timestamp(array.type):
        return array
    if array.type.tz is None:
        # The hour that a change of clocks repeats is taken as the earlier.
        array = pc.assume_timezone(
            array, value, ambiguous="earliest", nonexistent="earliest"
        )
    whole = pa.timestamp("s", array.type.tz)
    return pc.floor_temporal(array, unit="second").cast(whole).cast(pa.int64())
