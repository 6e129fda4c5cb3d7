"""Which types are accepted for a column, and how they are cast without loss.

Whole numbers are accepted in whatever type a writer stored them: integers of
any width, decimals, floats (pandas uses them for a column with missing values)
and columns that are all null. A value that a cast would change is an error
that names the value. Item vectors may be floats; they become codes in the way
in which the published codes were made.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from muse_tools.datasets.arrow_lists import list_array, values_of


def is_list(data_type: pa.DataType) -> bool:
    """Returns whether a type is a list of any layout."""
    return (
        pa.types.is_list(data_type)
        or pa.types.is_large_list(data_type)
        or pa.types.is_fixed_size_list(data_type)
    )


def is_text(data_type: pa.DataType) -> bool:
    """Returns whether a type holds texts, plain or dictionary-encoded."""
    if pa.types.is_dictionary(data_type):
        data_type = data_type.value_type
    return pa.types.is_string(data_type) or pa.types.is_large_string(data_type)


def leaf(data_type: pa.DataType) -> pa.DataType:
    """Returns the type of a list's values, or the type itself."""
    return data_type.value_type if is_list(data_type) else data_type


def describe(data_type: pa.DataType) -> str:
    """Returns a type in the notation of schemas/README.md: ``list<int8>``."""
    if is_list(data_type):
        return f"list<{describe(data_type.value_type)}>"
    return str(data_type)


def accepts(expected: pa.DataType, received: pa.DataType) -> bool:
    """Returns whether `cast` takes values of a received type."""
    types = pa.types
    if types.is_null(received):
        return True
    if is_list(expected):
        return is_list(received) and accepts(
            expected.value_type, received.value_type
        )
    if types.is_integer(expected):
        return (
            types.is_integer(received)
            or types.is_floating(received)
            or types.is_decimal(received)
        )
    if types.is_floating(expected):
        return types.is_floating(received)
    return expected.equals(received) or (
        types.is_string(expected) and types.is_large_string(received)
    )


def cast(array: pa.Array, expected: pa.DataType) -> pa.Array:
    """Casts a column to a type that `accepts` it.

    Raises:
        ValueError: names a value that does not fit or is not whole.
    """
    if array.type.equals(expected) and (
        not is_list(expected)
        or array.type.value_field.name == expected.value_field.name
    ):
        return array
    if pa.types.is_list(array.type) and is_list(expected):
        # Casting only the values avoids a copy of the validity and offsets.
        return pa.Array.from_buffers(
            expected,
            len(array),
            array.buffers()[:2],
            offset=array.offset,
            children=[cast(array.values, expected.value_type)],
        )
    if not pa.types.is_integer(expected):
        return array.cast(expected)
    if pa.types.is_floating(array.type):
        array = _whole(array)
    try:
        return array.cast(expected)
    except pa.ArrowInvalid as error:
        limits = np.iinfo(expected.to_pandas_dtype())
        for value in array.to_pylist():
            if value is not None and not (
                limits.min <= value <= limits.max and value == int(value)
            ):
                raise ValueError(str(value)) from error
        raise ValueError(str(error)) from error


def hint(field: pa.Field, received: pa.DataType, group: Sequence[str]) -> str:
    """Returns how to fix a type that is not accepted.

    `group` names all columns that hold the same ids.
    """
    types, name = pa.types, field.name
    wanted, found = describe(field.type), leaf(received)
    if not types.is_integer(leaf(field.type)) or (
        is_list(field.type) != is_list(received)
    ):
        return f"write column {name} as {wanted}."
    if is_text(found):
        return (
            f"replace the texts of {name} by "
            f"schemas.hashing.stable_ids({group[0]!r}, texts), "
            f"int64, wherever these ids stand ({', '.join(group)})."
        )
    if types.is_uint64(found):
        return (
            f"take the same 64 bits of {name} as int64, in NumPy "
            "ids.view(np.int64), wherever these ids stand "
            f"({', '.join(group)})."
        )
    if types.is_floating(found):
        return (
            f"write {name} as {wanted} from where the whole numbers come "
            "from; floats may have rounded them already, and a cast cannot "
            "bring them back."
        )
    return (
        f"write {name} as {wanted}, for each different value a number from 1 "
        f"on, the same wherever these values stand ({', '.join(group)})."
    )


def _whole(array: pa.Array) -> pa.Array:
    """Casts floats to int64 and NaN to null; refuses rounded numbers."""
    found = np.asarray(array)
    limit = 2.0 ** (np.finfo(found.dtype).nmant + 1)
    values = found.astype(np.float64)
    missing = np.isnan(values)
    values[missing] = 0
    # From this limit on, a float may be the rounding of another integer.
    wrong = (np.abs(values) >= limit) | (values != np.trunc(values))
    if wrong.any():
        raise ValueError(repr(float(values[wrong][0])))
    return pa.array(values.astype(np.int64), mask=missing)


def quantize(array: pa.ListArray) -> pa.ListArray:
    """Turns lists of floats into int8 codes, trunc(127 v / |v|).

    A vector of whole numbers up to 127 in size, at least one of them above 1,
    holds codes already and is kept. A vector that is not finite becomes null.
    """
    values = np.asarray(array.flatten(), np.float64)
    lengths = array.value_lengths().fill_null(0)
    offsets = np.r_[0, np.cumsum(values_of(lengths))]
    row = np.repeat(np.arange(len(array)), np.diff(offsets))
    with np.errstate(over="ignore"):
        norms = np.sqrt(np.bincount(row, values * values, len(array)))
    usable = np.isfinite(norms)
    scales = np.where(usable & (norms > 0), norms, np.inf)
    values = np.where(usable[row], values, 0)
    codes = np.trunc(127 * np.clip(values / scales[row], -1, 1))

    def all_are(condition: np.ndarray) -> np.ndarray:
        return np.bincount(row, ~condition, len(array)) == 0

    sizes = np.abs(values)
    whole = (values == np.trunc(values)) & (sizes <= 127)
    kept = all_are(whole) & ~all_are(sizes <= 1)
    codes = np.where(kept[row], values, codes)
    null = values_of(array.is_null()) | ~usable
    lists = list_array(codes.astype(np.int8), offsets, pa.int8())
    return pa.Array.from_buffers(
        lists.type,
        len(lists),
        [pa.array(~null).buffers()[1], lists.buffers()[1]],
        children=[lists.values],
    )
