"""Values that callers give, checked and turned into the words of records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from serving.stores.layout import Kind

UserId = int | str
Ids = Sequence[int] | Sequence[str] | np.ndarray | int | str
Value = int | float | str | Sequence[Any] | np.ndarray | None
"""Of one feature: a number or a text, or a list of them; None is missing."""
Values = Value
"""Of one feature of several events: the first axis is that of the events."""

_LATEST = 253_402_300_800
"""The second at which the year 10000 begins: later ones are milliseconds."""


def checked_user_id(user_id: int) -> int:
    """Returns a caller's user id; raises `ValueError` unless an int64."""
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
    """Returns words (width, N) of a caller's values of one feature."""
    width = kind.width
    if kind.dtype == "int64" and width == 1:
        return checked_ids(field, values)[None]
    if kind.dtype == "int64":
        # Lists may be shorter: the rest is missing.
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
    """Returns float32 of numbers, NaN where there is none."""
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
            f"{field}: expected numbers of 32 bits, or none where they are "
            f"missing. Received: {values!r}"[:200]
        )
    return np.ascontiguousarray(found)


def checked_times(given: Ids | None, count: int) -> np.ndarray:
    """Returns a caller's seconds, one for each of `count` events."""
    times = checked_ids("times", () if given is None else given)
    check_length("times", len(times), count)
    if (np.abs(times) >= _LATEST).any():
        raise ValueError(
            "times: expected whole seconds since 1970. Received: "
            f"{int(np.abs(times).max())}"
        )
    return times


def check_length(field: str, length: int, expected: int) -> None:
    """Raises ValueError where a field does not fit the items."""
    if length != expected:
        raise ValueError(
            f"item_ids and {field}: expected the same length. "
            f"Received: {expected} and {length}"
        )


def check_names(field: str, given: Iterable[str], names: Iterable[str]) -> None:
    """Raises ValueError for features that are not kept."""
    if unknown := sorted(set(given) - set(names)):
        raise ValueError(
            f"{field}: expected features of the store's layout, "
            f"{list(names)}. Received: {unknown}"
        )


def checked_ids(name: str, values: Any) -> np.ndarray:
    """Returns a caller's ids, int64 (N,)."""
    given = np.atleast_1d(values)
    # NumPy takes true for 1 where numbers stand beside it.
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
