"""The records of a user as bytes: header, events and resolved rows.

All events of a store have the same size, so that the n-th lies at a known
place: item id and features in the order of the layout, little-endian int64,
and a 32-bit check over user, item and features. The check finds damaged bytes,
a cut in the wrong place and events of another user. Header and rows carry a
CRC.
"""

from __future__ import annotations

import dataclasses
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from serving.stores.errors import StoreCorruptError
from serving.stores.layout import Layout

Ids = Sequence[int] | np.ndarray | int

_MAGIC = b"MUSEHIS1"
_ROWS_MAGIC = b"MUSEROW1"
_ROWS = struct.Struct("<8sqqqqQ")

_USER = 0x9E3779B97F4A7C15
_ITEM = np.uint64(0xD6E8FEB86659FD93)
_FEATURE = 0xA0761D6478BD642F
_LAST = np.uint64(0xE7037ED1A0B428DB)
_HALF = np.uint64(32)
_MASK = (1 << 64) - 1


@dataclasses.dataclass(frozen=True)
class Header:
    """What is known about a user beside the events.

    `start` counts the events that were dropped. It lies outside the check, so
    that a store can count on without computing one. `user` has the features in
    the order of the layout, or is None where none were set.
    """

    user_id: int
    start: int = 0
    user: tuple[int, ...] | None = None


class Codec:
    """Turns what a caller gives into records of a layout, and back.

    Events are int64 (1 + F, N): item ids, then each behavior feature.

    Args:
        layout: which features.

    Attributes:
        layout: as given.
        header_bytes: size of a header.
        event_bytes: size of an event.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._header = struct.Struct(f"<8sqqq{len(layout.user)}qQ")
        ids = (1 + len(layout.behaviors),)
        self._event = np.dtype([("ids", "<i8", ids), ("check", "<u4")])
        self.header_bytes = self._header.size
        self.event_bytes = self._event.itemsize

    def pack_header(self, header: Header) -> bytes:
        """Returns `header_bytes` bytes; the first 16 name the user."""
        known = int(header.user is not None)
        user = header.user or (0,) * len(self.layout.user)
        check = _header_check(header.user_id, known, user)
        return self._header.pack(
            _MAGIC, header.user_id, header.start, known, *user, check
        )

    def unpack_header(
        self, user_id: int, data: bytes | memoryview, key: str
    ) -> Header:
        """Reads a user's header."""
        if len(data) != self.header_bytes or bytes(data[:8]) != _MAGIC:
            raise StoreCorruptError(
                user_id,
                key,
                f"does not begin with {_MAGIC.decode()}, but with "
                f"{bytes(data[:8])!r}",
            )
        _, owner, start, known, *user, check = self._header.unpack(data)
        if owner != user_id:
            raise StoreCorruptError(user_id, key, f"belongs to user {owner}")
        if start < 0 or check != _header_check(owner, known, user):
            raise StoreCorruptError(user_id, key, "the header fails its check")
        return Header(user_id, start, tuple(user) if known else None)

    def pack_events(self, user_id: int, events: np.ndarray) -> bytes:
        """Returns the bytes of events, int64 (1 + F, N)."""
        packed = np.empty(events.shape[1], self._event)
        packed["ids"] = events.T
        packed["check"] = _check(user_id, events)
        return packed.tobytes()

    def unpack_events(
        self, user_id: int, data: bytes | bytearray | memoryview, key: str
    ) -> np.ndarray:
        """Returns int64 (1 + F, N) of packed events."""
        if len(data) % self.event_bytes:
            raise StoreCorruptError(
                user_id,
                key,
                f"{len(data)} bytes are not a multiple of {self.event_bytes}",
            )
        packed = np.frombuffer(data, self._event)
        # A copy: contiguous, and no longer tied to the store's memory.
        events = np.array(packed["ids"].T, np.int64, order="C")
        wrong = _check(user_id, events) != packed["check"]
        if wrong.any():
            raise StoreCorruptError(
                user_id,
                key,
                f"{int(wrong.sum())} of {len(packed)} events fail their check",
            )
        return events

    def checked_user(self, user: Mapping[str, int]) -> tuple[int, ...]:
        """Returns a caller's user features by layout; 0 is left out."""
        _check_names("user", user, self.layout.user)
        given = dict(zip(user, _ids("user", list(user.values())), strict=True))
        return tuple(int(given.get(name, 0)) for name in self.layout.user)

    def checked_events(
        self, item_ids: Ids, behaviors: Mapping[str, Ids]
    ) -> np.ndarray:
        """Returns a caller's events, int64 (1 + F, N); 0 is left out."""
        items = _ids("item_ids", item_ids)
        if not items.all():
            raise ValueError(
                "item_ids: expected ids other than 0, which means padding. "
                f"Received: 0 at position {int(np.argmin(items != 0))}"
            )
        names = self.layout.behaviors
        _check_names("behaviors", behaviors, names)
        events = np.zeros((1 + len(names), len(items)), np.int64)
        events[0] = items
        for name, values in behaviors.items():
            ids = _ids(f"behaviors[{name!r}]", values)
            if len(ids) != len(items):
                raise ValueError(
                    f"item_ids and behaviors[{name!r}]: expected the same "
                    f"length. Received: {len(items)} and {len(ids)}"
                )
            events[1 + names.index(name)] = ids
        return events


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


def _check_names(
    field: str, given: Iterable[str], names: tuple[str, ...]
) -> None:
    if unknown := sorted(set(given) - set(names)):
        raise ValueError(
            f"{field}: expected features of the store's layout, "
            f"{list(names)}. Received: {unknown}"
        )


def _ids(name: str, values: Ids) -> np.ndarray:
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
        raise ValueError(f"{name}: expected ids that fit in int64")
    return given.astype(np.int64)


def _header_check(user_id: int, known: int, user: Sequence[int]) -> int:
    fields = (user_id, known, *user)
    return zlib.crc32(_MAGIC + struct.pack(f"<{len(fields)}q", *fields))


def _rows_check(plain: tuple[int, ...], body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(struct.pack("<4q", *plain)))


def _check(user_id: int, events: np.ndarray) -> np.ndarray:
    """Returns uint32 (N,); the order of the products is the format's."""
    items, *features = events.view(np.uint64)
    mixed = items * _ITEM
    mixed ^= mixed >> _HALF
    for place, values in enumerate(features):
        # A factor for each place, so that exchanged features are found.
        mixed += values * np.uint64(_FEATURE * (2 * place + 1) & _MASK)
        mixed ^= mixed >> _HALF
    mixed += np.uint64(((user_id + 1) * _USER) & _MASK)
    mixed *= _LAST
    return (mixed >> _HALF).astype(np.uint32)
