"""The records of a user as bytes: header, events and resolved rows.

An event takes 20 bytes, so that the n-th lies at a known place: item id and
category id, little-endian int64, and a 32-bit check over user, item and
category. The check finds damaged bytes, a cut in the wrong place and events of
another user. Header and rows carry a CRC.
"""

from __future__ import annotations

import dataclasses
import struct
import zlib
from collections.abc import Sequence

import numpy as np

from serving.stores.errors import StoreCorruptError

PROFILE_FIELDS = 5
"""Anonymized fields of a user's profile."""

_MAGIC = b"MUSEHIS1"
_HEADER = struct.Struct(f"<8sqqq{PROFILE_FIELDS}qQ")
HEADER_BYTES = _HEADER.size

_ROWS_MAGIC = b"MUSEROW1"
_ROWS = struct.Struct("<8sqqqqQ")

_EVENT = np.dtype([("item", "<i8"), ("category", "<i8"), ("check", "<u4")])
EVENT_BYTES = _EVENT.itemsize

_USER = 0x9E3779B97F4A7C15
_ITEM = np.uint64(0xD6E8FEB86659FD93)
_CATEGORY = np.uint64(0xA0761D6478BD642F)
_LAST = np.uint64(0xE7037ED1A0B428DB)
_HALF = np.uint64(32)
_MASK = (1 << 64) - 1


@dataclasses.dataclass(frozen=True)
class Header:
    """What is known about a user beside the events.

    `start` counts the events that were dropped. It lies outside the check, so
    that a store can count on without computing one.
    """

    user_id: int
    start: int = 0
    profile: tuple[int, ...] | None = None

    def pack(self) -> bytes:
        """Returns `HEADER_BYTES` bytes."""
        known = int(self.profile is not None)
        profile = self.profile or (0,) * PROFILE_FIELDS
        check = _header_check(self.user_id, known, profile)
        return _HEADER.pack(
            _MAGIC, self.user_id, self.start, known, *profile, check
        )

    @classmethod
    def unpack(cls, user_id: int, data: bytes | memoryview, key: str) -> Header:
        """Reads a user's header."""
        if len(data) != HEADER_BYTES or bytes(data[:8]) != _MAGIC:
            raise StoreCorruptError(
                user_id,
                key,
                f"does not begin with {_MAGIC.decode()}, but with "
                f"{bytes(data[:8])!r}",
            )
        _, owner, start, known, *profile, check = _HEADER.unpack(data)
        if owner != user_id:
            raise StoreCorruptError(user_id, key, f"belongs to user {owner}")
        if start < 0 or check != _header_check(owner, known, tuple(profile)):
            raise StoreCorruptError(user_id, key, "the header fails its check")
        return cls(user_id, start, tuple(profile) if known else None)

    def profile_array(self) -> np.ndarray:
        """Returns int64 (5,), zeros if unknown."""
        return np.array(self.profile or (0,) * PROFILE_FIELDS, np.int64)


def pack_events(
    user_id: int, item_ids: np.ndarray, category_ids: np.ndarray
) -> bytes:
    """Returns the bytes of events, int64 (N,) each."""
    events = np.empty(len(item_ids), _EVENT)
    events["item"] = item_ids
    events["category"] = category_ids
    events["check"] = _check(user_id, item_ids, category_ids)
    return events.tobytes()


def unpack_events(
    user_id: int, data: bytes | bytearray | memoryview, key: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns item and category ids, int64 (N,) each, of packed events."""
    if len(data) % EVENT_BYTES:
        raise StoreCorruptError(
            user_id,
            key,
            f"{len(data)} bytes are not a multiple of {EVENT_BYTES}",
        )
    events = np.frombuffer(data, _EVENT)
    # Copies: contiguous, and no longer tied to the store's memory.
    items, categories = (
        np.ascontiguousarray(events[name]).astype(np.int64, copy=False)
        for name in ("item", "category")
    )
    wrong = _check(user_id, items, categories) != events["check"]
    if wrong.any():
        raise StoreCorruptError(
            user_id,
            key,
            f"{int(wrong.sum())} of {len(events)} events fail their check",
        )
    return items, categories


def pack_rows(
    user_id: int, start: int, end: int, table_stamp: int, rows: np.ndarray
) -> bytes:
    """Returns the record of int32 rows of the events from `start` to `end`."""
    body = np.ascontiguousarray(rows, "<i4").tobytes()
    plain = (user_id, start, end, table_stamp)
    return _ROWS.pack(_ROWS_MAGIC, *plain, _rows_check(plain, body)) + body


def unpack_rows(
    user_id: int, data: bytes | memoryview, key: str, end: int, count: int
) -> tuple[np.ndarray | None, int | None]:
    """Returns int32 rows (count,) of the newest events, and the table stamp.

    Both are None where the record does not cover the `count` events before
    `end`.
    """
    if len(data) < _ROWS.size or bytes(data[:8]) != _ROWS_MAGIC:
        raise StoreCorruptError(
            user_id, key, f"does not begin with {_ROWS_MAGIC.decode()}"
        )
    _, owner, first, last, stamp, check = _ROWS.unpack(data[: _ROWS.size])
    body = bytes(data[_ROWS.size :])
    if (
        owner != user_id
        or len(body) != 4 * (last - first)
        or check != _rows_check((owner, first, last, stamp), body)
    ):
        raise StoreCorruptError(user_id, key, "the rows fail their check")
    rows = np.frombuffer(body, "<i4").astype(np.int32, copy=False)
    if end != last or count > len(rows):
        return None, None
    return rows[len(rows) - count :], stamp


def checked_events(
    item_ids: Sequence[int] | np.ndarray | int,
    category_ids: Sequence[int] | np.ndarray | int,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a caller's ids as int64 (N,) each, or raises `ValueError`."""
    items = _ids("item_ids", item_ids)
    categories = _ids("category_ids", category_ids)
    if len(items) != len(categories):
        raise ValueError(
            "item_ids and category_ids: expected the same length. Received: "
            f"{len(items)} and {len(categories)}"
        )
    if not items.all():
        raise ValueError(
            "item_ids: expected ids other than 0, which means padding. "
            f"Received: 0 at position {int(np.argmin(items != 0))}"
        )
    return items, categories


def checked_profile(values: object) -> tuple[int, ...]:
    """Returns a caller's profile; raises `ValueError` unless five ids."""
    given = np.asarray(values)
    if given.shape != (PROFILE_FIELDS,) or given.dtype.kind not in "iu":
        raise ValueError(
            f"profile: expected {PROFILE_FIELDS} whole numbers. "
            f"Received: {values!r}"
        )
    return tuple(given.astype(np.int64).tolist())


def checked_user_id(user_id: int) -> int:
    """Returns a caller's user id; raises `ValueError` unless an int64."""
    if (
        isinstance(user_id, bool)
        or not isinstance(user_id, (int, np.integer))
        or not -(2**63) <= int(user_id) < 2**63
    ):
        raise ValueError(
            f"user_id: expected a whole number of 64 bits. Received: "
            f"{user_id!r}"
        )
    return int(user_id)


def _ids(name: str, values: Sequence[int] | np.ndarray | int) -> np.ndarray:
    given = np.atleast_1d(values)
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        raise ValueError(
            f"{name}: expected a flat list of whole numbers. "
            f"Received: {given.dtype} of shape {given.shape}"
        )
    if given.dtype == np.uint64 and (given > np.uint64(2**63 - 1)).any():
        raise ValueError(f"{name}: expected ids that fit in int64")
    return given.astype(np.int64)


def _header_check(user_id: int, known: int, profile: tuple[int, ...]) -> int:
    return zlib.crc32(_MAGIC + struct.pack("<7q", user_id, known, *profile))


def _rows_check(plain: tuple[int, ...], body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(struct.pack("<4q", *plain)))


def _check(
    user_id: int, item_ids: np.ndarray, category_ids: np.ndarray
) -> np.ndarray:
    """Returns uint32 (N,); the order of the products is the format's."""
    mixed = item_ids.astype(np.int64, copy=False).view(np.uint64) * _ITEM
    mixed ^= mixed >> _HALF
    mixed += (
        category_ids.astype(np.int64, copy=False).view(np.uint64) * _CATEGORY
    )
    mixed ^= mixed >> _HALF
    mixed += np.uint64(((user_id + 1) * _USER) & _MASK)
    mixed *= _LAST
    return (mixed >> _HALF).astype(np.uint32)
