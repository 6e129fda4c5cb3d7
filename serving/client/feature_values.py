"""Checks values of features and converts them to tensors of a signature.

An entity (a user, request, behavior, candidate or item) has one value, which is
a number or a text, or a list of values. None and NaN are missing values.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from serving.client.errors import RequestError

Single: TypeAlias = int | float | str | None
Value: TypeAlias = Single | Sequence[Single] | np.ndarray
"""The value of one entity."""
Values: TypeAlias = Sequence[Value] | np.ndarray
"""The values of several entities."""

_INT64 = np.iinfo(np.int64)
_FLOAT32 = np.finfo(np.float32)
_LISTS = (list, tuple, np.ndarray)
_PLAIN = (int, float, np.integer, np.floating)
_VALUE = "be a finite number of 64 bits, a text or a list of these"


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a signature takes for one entity.

    Attributes:
        dtype: `int64` or `float`.
        width: length of a list; None if the signature takes no list, -1 if it
            takes any length.
        exact: whether a list must have exactly this length, as vectors must.
        text_id: returns the id of a text, given the field and the text, or
            raises `RequestError`.
    """

    dtype: str
    width: int | None
    exact: bool
    text_id: Callable[[str, str], int]

    @property
    def missing(self) -> float:
        """The value that stands for a missing one: NaN or 0."""
        return math.nan if self.dtype == "float" else 0


def features_of_one(
    field: str, features: Mapping[str, Value]
) -> dict[str, Any]:
    """Returns the values of one entity by name, or raises `RequestError`.

    Lists become arrays (N,) of int64, floats or objects.
    """
    return {
        name: _one(f"{field}[{name!r}]", value)
        for name, value in _by_name(field, features).items()
    }


def features_of_each(
    field: str, features: Mapping[str, Values], as_long_as: tuple[str, int]
) -> dict[str, np.ndarray]:
    """Returns the values of several entities by name, as arrays.

    Each entity has one entry or row. `as_long_as` is the name and the length of
    the field that lists the entities. Raises `RequestError`.
    """
    return {
        name: _each(f"{field}[{name!r}]", values, as_long_as)
        for name, values in _by_name(field, features).items()
    }


def _by_name(field: str, features: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(features, Mapping):
        raise RequestError(field, "map names of features to values", features)
    return features


def _one(field: str, value: Any) -> Any:
    return (_flat if _is_list(value) else _single)(field, value)


def _is_list(value: Any) -> bool:
    return isinstance(value, _LISTS) and getattr(value, "ndim", 1) > 0


def _each(field: str, values: Any, as_long_as: tuple[str, int]) -> np.ndarray:
    if not _is_list(values):
        raise RequestError(field, "be a list of values", values)
    if len(values) != as_long_as[1]:
        raise RequestError(
            field,
            "be as long as {}, {}".format(*as_long_as),
            f"{len(values)} values",
        )
    if isinstance(values, np.ndarray) and values.dtype != object:
        if values.ndim == 2:
            return _numbers(field, values)
    elif any(issubclass(kind, _LISTS) for kind in set(map(type, values))):
        return objects([_one(field, value) for value in values])
    return _flat(field, values)


def _flat(field: str, values: Any) -> np.ndarray:
    """Returns an array (N,) of numbers, or of `Single`s."""
    if isinstance(values, np.ndarray):
        if values.ndim != 1:
            raise RequestError(
                field, "have at most one list per entry", values.shape
            )
        if values.dtype.kind in "iuf":
            return _numbers(field, values)
    else:
        kinds = set(map(type, values))
        if all(issubclass(k, _PLAIN) and k is not bool for k in kinds):
            floats = any(issubclass(k, (float, np.floating)) for k in kinds)
            try:
                array = np.array(values, np.float64 if floats else np.int64)
            except OverflowError as error:
                raise RequestError(field, _VALUE, values) from error
            return _numbers(field, array)
    return objects([_single(field, value) for value in values])


def _numbers(field: str, array: np.ndarray) -> np.ndarray:
    """Returns finite numbers as int64 or floats, or raises `RequestError`."""
    if array.dtype.kind == "f":
        if np.isinf(array).any():
            raise RequestError(field, _VALUE, "infinity")
        return array
    unsigned = array.dtype.kind == "u" and array.size
    if array.dtype.kind not in "iu" or (unsigned and array.max() > _INT64.max):
        raise RequestError(field, _VALUE, array.tolist())
    return np.ascontiguousarray(array, np.int64)


def _single(field: str, value: Any) -> Single:
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.item()
    if value is None or isinstance(value, str):
        return value
    whole = isinstance(value, int) and not isinstance(value, bool)
    if whole and _INT64.min <= value <= _INT64.max:
        return int(value)
    if isinstance(value, float) and not math.isinf(value):
        return value
    raise RequestError(field, _VALUE, value)


def objects(values: Sequence[Any]) -> np.ndarray:
    """Returns an array (N,) of objects, which may be arrays themselves."""
    array = np.empty(len(values), object)
    for place, value in enumerate(values):
        array[place] = value
    return array


def number_of_values(values: Any) -> int:
    """Returns the size of the values of several entities after padding."""
    if values.dtype != object:
        return int(values.size)
    widest = max((np.size(value) for value in values), default=1)
    return len(values) * widest


def inferred_kind(
    values: Sequence[Any], text_id: Callable[[str, str], int], each: bool
) -> Kind:
    """Infers the kind of values if no model declares it.

    With `each`, an entry of `values` has the values of several entities.
    """
    is_list = is_float = False
    for value in values:
        is_list |= np.ndim(value) > each
        parts = np.ravel(value).tolist() if _is_mixed(value) else [value]
        for part in parts:
            is_list |= each and np.ndim(part) > 0 and part is not value
            is_float |= any(isinstance(one, float) for one in _sample(part))
    return Kind(
        "float" if is_float else "int64",
        -1 if is_list else None,
        is_float,
        text_id,
    )


def _is_mixed(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == object


def _sample(value: Any) -> list[Any]:
    """Returns enough single values to show the type of a value."""
    array = np.ravel(value)
    return (array if array.dtype == object else array[:1]).tolist()


def tensor(field: str, values: Sequence[Any], kind: Kind) -> np.ndarray:
    """Returns the values of N entities as (N,) or, for lists, (N, width).

    Arrays are int64 or float32. Shorter lists are padded with missing values.

    Raises:
        RequestError: if a value has a wrong type, or a list a wrong length.
    """
    if kind.width is None:
        return _typed(field, values, kind)
    if isinstance(values, np.ndarray) and values.ndim == 2:
        rows = list(_typed(field, values.ravel(), kind).reshape(values.shape))
    else:
        rows = [_row(field, value, kind) for value in values]
    lengths = {len(row) for row in rows if len(row)}
    width = max(lengths, default=0) if kind.width < 0 else kind.width
    if kind.exact and lengths - {width}:
        received = f"{min(lengths - {width})} numbers"
        raise RequestError(field, f"have {width} numbers", received)
    if max(lengths, default=0) > width:
        raise RequestError(
            field, f"have at most {width} values", f"{max(lengths)} values"
        )
    out: np.ndarray = np.full((len(rows), width), kind.missing, _dtype(kind))
    for place, row in zip(out, rows, strict=True):
        place[: len(row)] = row
    return out


def tensor_of_each(
    field: str, values: Sequence[Any], kind: Kind, length: int
) -> np.ndarray:
    """Returns the values of several requests' entities, (B, length, …).

    Requests with fewer entities are padded with missing values; None stands for
    a request without values. Raises `RequestError`.
    """
    rows = [tensor(field, () if one is None else one, kind) for one in values]
    if kind.width is not None and kind.width < 0:
        widths = {row.shape[1] for row in rows if row.shape[1]}
        if kind.exact and len(widths) > 1:
            raise RequestError(
                field,
                f"have {max(widths)} numbers, as elsewhere in the call",
                f"{min(widths)} numbers",
            )
        kind = dataclasses.replace(kind, width=max(widths, default=1))
    return padded(rows, length, kind)


def padded(rows: Sequence[np.ndarray], length: int, kind: Kind) -> np.ndarray:
    """Stacks arrays (N,) or (N, width) as (B, length) or (B, length, width)."""
    shape = [length] if kind.width is None else [length, kind.width]
    if len(rows) == 1 and list(rows[0].shape) == shape:
        return rows[0][np.newaxis]
    out: np.ndarray = np.full((len(rows), *shape), kind.missing, _dtype(kind))
    for place, row in zip(out, rows, strict=True):
        place[tuple(slice(size) for size in row.shape)] = row
    return out


def _row(field: str, value: Any, kind: Kind) -> np.ndarray:
    """Returns the list of one entity; a missing list is empty."""
    if value is None or (not np.ndim(value) and value != value):
        return np.zeros(0, _dtype(kind))
    if not np.ndim(value):
        raise RequestError(field, f"be a list of {_named(kind)}", value)
    return _typed(field, value, kind)


def _typed(field: str, values: Sequence[Any], kind: Kind) -> np.ndarray:
    """Returns single values as an array of the kind's dtype."""
    if not isinstance(values, np.ndarray) or values.dtype == object:
        array = _converted(field, values, kind)
    elif values.ndim != 1 and values.size:
        raise RequestError(
            field, f"be one of {_named(kind)}, not a list", values.tolist()
        )
    else:
        array = values
    if kind.dtype == "float":
        wide = np.abs(array) > _FLOAT32.max
        if wide.any():
            raise RequestError(field, "fit into 32 bits", array[wide][0])
        return np.ascontiguousarray(array, np.float32)
    if array.dtype.kind == "f":
        given = np.flatnonzero(~np.isnan(array))
        if given.size:
            raise _wrong(field, kind, float(array[given[0]]))
        return np.zeros(array.shape, np.int64)
    return array


def _converted(field: str, values: Sequence[Any], kind: Kind) -> np.ndarray:
    found = []
    for value in values:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            value = kind.missing
        elif np.ndim(value):
            raise RequestError(
                field, f"be one of {_named(kind)}, not a list", value.tolist()
            )
        elif isinstance(value, str):
            if kind.dtype == "float":
                raise _wrong(field, kind, value)
            value = kind.text_id(field, value)
        elif isinstance(value, float) and kind.dtype != "float":
            raise _wrong(field, kind, value)
        found.append(value)
    dtype = np.float64 if kind.dtype == "float" else np.int64
    return np.array(found, dtype)


def _wrong(field: str, kind: Kind, received: Any) -> RequestError:
    return RequestError(field, f"be {_named(kind)} ({kind.dtype})", received)


def _named(kind: Kind) -> str:
    return "numbers" if kind.dtype == "float" else "whole numbers"


def _dtype(kind: Kind) -> type:
    return np.float32 if kind.dtype == "float" else np.int64
