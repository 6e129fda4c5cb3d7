"""Checks values of arguments and converts them to words of records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from serving.stores.layout import Kind

UserId = int | str
Ids = Sequence[int] | Sequence[str] | np.ndarray | int | str
Value = int | float | str | Sequence[Any] | np.ndarray | None
"""A feature of an entity: a number, a text, or a list; None is missing."""
Values = Value
"""A feature of several events; the first axis is that of the events."""

_LATEST = 253_402_300_800
"""The year 10000 in seconds; larger values are milliseconds."""


def checked_user_id(user_id: int) -> int:
    """Returns a user id; raises `ValueError` unless it is an int64."""
    if (
        isinstance(user_id, bool)
        or not isinstance(user_id, (int, np.integer))
        or not -(2**63) <= int(user_id) < 2**63
    ):
        raise ValueError(
            "user_id: expected a whole number of 64 bits. Received: "
            f"{user_id!r}"
        )
    return int(user_id)


def checked_words(field: str, values: Any, kind: Kind) -> np.ndarray:
    """Returns words (width, N) of the values of one feature."""
    width = kind.width
    if kind.dtype == "int64" and width == 1:
        return checked_ids(field, values)[None]
    if kind.dtype == "int64":
        # Shorter lists are padded with missing values.
        lists = [checked_ids(field, one) for one in values]
        words = np.zeros((width, len(lists)), np.int64)
        for place, one in enumerate(lists):
            if len(one) > width:
                raise ValueError(
                    f"{field}: expected at most {width} values. "
                    f"Received: {len(one)}"
                )
            words[: len(one), place] = one
        return words
    shape = (len(values), width) if width > 1 else (len(values),)
    given = _numbers(field, values)
    if given.shape != shape:
        of_each = f"{width} numbers" if width > 1 else "a number"
        raise ValueError(
            f"{field}: expected {of_each} each. Received: shape {given.shape}"
        )
    bits = given.view(np.uint32).reshape(len(values), width)
    return bits.T.astype(np.int64)


def _numbers(field: str, values: Any) -> np.ndarray:
    """Returns float32, with NaN for None."""
    given = values if isinstance(values, np.ndarray) else np.array(values, "O")
    if given.dtype == object and bool not in set(map(type, given.flat)):
        texts = any(isinstance(one, (str, bytes)) for one in given.flat)
        try:
            given = given if texts else given.astype(np.float64)
        except (TypeError, ValueError):
            pass
    with np.errstate(over="ignore"):
        found = given.astype(np.float32) if given.dtype.kind in "iuf" else None
    if found is None or np.isinf(found).any():
        raise ValueError(
            f"{field}: expected numbers of 32 bits, or None for missing "
            f"values. Received: {values!r}"[:200]
        )
    return np.ascontiguousarray(found)


def checked_times(given: Ids | None, count: int) -> np.ndarray:
    """Returns times in seconds, one for each of `count` events."""
    times = checked_ids("times", () if given is None else given)
    check_length("times", len(times), count)
    if (np.abs(times) >= _LATEST).any():
        raise ValueError(
            "times: expected whole seconds since 1970. Received: "
            f"{int(np.abs(times).max())}"
        )
    return times


def check_length(field: str, length: int, expected: int) -> None:
    """Raises ValueError unless a field has one value for each item."""
    if length != expected:
        raise ValueError(
            f"item_ids and {field}: expected the same length. "
            f"Received: {expected} and {length}"
        )


def check_names(field: str, given: Iterable[str], names: Iterable[str]) -> None:
    """Raises ValueError for features that the layout does not have."""
    if unknown := sorted(set(given) - set(names)):
        raise ValueError(
            f"{field}: expected features of the store's layout, "
            f"{list(names)}. Received: {unknown}"
        )


def checked_ids(name: str, values: Any) -> np.ndarray:
    """Returns ids as int64 (N,)."""
    given = np.atleast_1d(values)
    # NumPy converts true to 1 beside numbers.
    mixed = isinstance(values, Sequence) and bool in set(map(type, values))
    if (
        mixed
        or given.ndim != 1
        or (given.size and given.dtype.kind not in "iu")
    ):
        raise ValueError(
            f"{name}: expected a flat list of whole numbers. "
            f"Received: {given.dtype} of shape {given.shape}"
        )
    if given.dtype == np.uint64 and (given > np.uint64(2**63 - 1)).any():
        raise ValueError(f"{name}: expected numbers that fit in int64")
    return given.astype(np.int64)
