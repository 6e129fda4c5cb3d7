"""Decodes columns of files: texts, times, scores, flags and lists.

The metadata of a field say what its column may hold and how it is decoded.
"""

from __future__ import annotations

import math
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from muse_tools.datasets import casting, moments
from muse_tools.datasets.arrow_lists import list_lengths, values_of
from schemas.hashing import stable_ids

TEXT, TIME, AT_LEAST, FLAG = b"text", b"time", b"at_least", b"flag"
NUMBER = b"number"
_WANTED = {
    TEXT: "string",
    TIME: "timestamp, date or int64 seconds",
    AT_LEAST: "a number",
    FLAG: "int64 or bool",
    NUMBER: "a number",
}

SEPARATOR = b"separator"
"""Separates the values of lists that are stored as text."""

MANY = b"many"
"""How many values of a list are used."""

DIM = b"dim"
"""How many numbers a vector has."""


def _kind(field: pa.Field) -> bytes | None:
    return next((k for k in _WANTED if k in (field.metadata or {})), None)


def separator(field: pa.Field, received: pa.DataType) -> str:
    """Returns the separator of the lists in a column of texts, or nothing."""
    given = (field.metadata or {}).get(SEPARATOR, b"").decode()
    return given if casting.is_text(received) else ""


def describe(field: pa.Field) -> str:
    """Returns what a column may hold, in words for messages."""
    kind = _kind(field)
    if kind is None:
        known = casting.describe(field.type)
    elif casting.is_list(field.type):
        known = f"list<{_WANTED[kind]}>"
    else:
        known = _WANTED[kind]
    between = separator(field, pa.string())
    return known + (f", or texts with {between!r} between" * bool(between))


def accepts(field: pa.Field, received: pa.DataType) -> bool:
    """Returns whether `decode` takes a column of a received type."""
    kind, leaf, types = _kind(field), casting.leaf(received), pa.types
    if separator(field, received):
        return True
    if kind is None or types.is_null(received):
        return casting.accepts(field.type, received)
    if casting.is_list(field.type) != casting.is_list(received):
        return False
    if types.is_dictionary(leaf):
        leaf = leaf.value_type
    if types.is_null(leaf):
        return True
    if kind == TEXT:
        return casting.is_text(leaf)
    if kind == FLAG:
        return types.is_boolean(leaf) or casting.accepts(field.type, leaf)
    if kind == TIME and (types.is_timestamp(leaf) or types.is_date(leaf)):
        return True
    return types.is_integer(leaf) or (
        kind in (AT_LEAST, NUMBER)
        and (types.is_floating(leaf) or types.is_decimal(leaf))
    )


def decode(array: pa.Array, field: pa.Field) -> pa.Array:
    """Returns a column as numbers or lists of numbers.

    A `ValueError` names a text that is not a number.
    """
    if between := separator(field, array.type):
        array = _split(array, between, DIM in field.metadata)
    kind, array = _kind(field), _of_any_length(array)
    if casting.is_list(array.type):
        parse = casting.is_text(casting.leaf(array.type))
        if kind is None and not parse:
            return array
        return _decode_list(array, field, kind)
    if kind is None or pa.types.is_null(array.type):
        return array
    return _decode_values(array, kind, field.metadata[kind].decode())


def texts_of(array: pa.Array, field: pa.Field) -> pa.Array:
    """Returns the texts of a column; those of lists are concatenated."""
    if between := separator(field, array.type):
        array = _split(array, between, is_vector=False)
    texts = array.flatten() if casting.is_list(array.type) else array
    return texts.cast(pa.string())


def _decode_list(
    array: pa.Array, field: pa.Field, kind: bytes | None
) -> pa.Array:
    values, leaf = array.flatten(), casting.leaf(field.type)
    if kind == TEXT:
        values = _decode_values(values, TEXT, field.metadata[TEXT].decode())
    elif casting.is_text(values.type):
        values = _parse(values, pa.float64() if leaf == pa.int8() else leaf)
    elif kind is not None and not pa.types.is_null(values.type):
        values = _decode_values(values, kind, "")
    if kind == NUMBER:
        values = pc.fill_null(values.cast(leaf), math.nan)
    return _lists(list_lengths(array), values, array)


def _parse(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    try:
        return texts.cast(kind)
    except pa.ArrowInvalid as error:
        found = re.search("'.*'", str(error), re.DOTALL)
        raise ValueError(found[0] if found else str(error)) from error


def _of_any_length(array: pa.Array) -> pa.Array:
    """Turns lists of fixed size into lists of variable size."""
    if not pa.types.is_fixed_size_list(array.type):
        return array
    size, values = array.type.list_size, array.flatten()
    given = values_of(array.is_valid())
    if len(values) > size * given.sum():  # Old pyarrow keeps values of nulls.
        values = values.filter(pa.array(np.repeat(given, size)))
    return _lists(given * size, values, array)


def _lists(lengths: np.ndarray, values: pa.Array, like: pa.Array) -> pa.Array:
    """Builds lists that are null in the same rows as another array."""
    offsets = np.r_[0, np.cumsum(lengths)]
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()),
        values,
        mask=like.is_null() if like.null_count else None,
    )


def _split(array: pa.Array, separator: str, is_vector: bool) -> pa.Array:
    """Splits texts; an empty or null text is a null vector or an empty list."""
    texts = pc.utf8_trim_whitespace(pc.fill_null(array.cast(pa.string()), ""))
    parts = (
        pc.utf8_split_whitespace(texts)
        if separator == " "
        else pc.split_pattern(texts, separator)
    )
    lengths, given = list_lengths(parts), values_of(pc.not_equal(texts, ""))
    kept = pa.array(np.repeat(given, lengths))
    values = pc.utf8_trim_whitespace(parts.flatten().filter(kept))
    values = pc.if_else(pc.equal(values, ""), None, values)
    if is_vector:
        parts = pc.if_else(pa.array(given), texts, None)
    return _lists(np.where(given, lengths, 0), values, parts)


def _decode_values(array: pa.Array, kind: bytes, value: str) -> pa.Array:
    if kind == TEXT:
        coded = array
        if not pa.types.is_dictionary(array.type):
            coded = array.dictionary_encode()
        ids = pa.array(stable_ids(value, coded.dictionary.to_pylist()))
        return pc.take(ids, coded.indices)
    if kind == FLAG:
        flags = pa.types.is_boolean(array.type)
        return array.cast(pa.int64()) if flags else array
    if kind == NUMBER:
        return array.cast(pa.float32(), safe=False)
    if kind == AT_LEAST:
        numbers = array.cast(pa.float64(), safe=False)
        numbers = pc.if_else(pc.is_nan(numbers), None, numbers)
        return pc.greater_equal(numbers, float(value)).cast(pa.int64())
    if pa.types.is_date(array.type):
        array = array.cast(pa.timestamp("s"))
    if not pa.types.is_timestamp(array.type):
        return array
    if array.type.tz is None:
        array = moments.in_zone(array, value)
    # In other zones, floor_temporal refuses times as clocks go back.
    array = array.cast(pa.timestamp(array.type.unit, "UTC"))
    whole = pa.timestamp("s", "UTC")
    return pc.floor_temporal(array, unit="second").cast(whole).cast(pa.int64())
