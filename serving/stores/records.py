"""The records of a user as bytes: header, events and resolved rows.

All events of a store have the same size, so that the n-th event is at a known
position: item id, time if the layout has times, int64 features and then float32
features in the order of the layout, little-endian, and a 32-bit check of the
user and all of these. The check detects damaged bytes, a wrong cut and events
of another user. The header and the rows have a CRC.
"""

from __future__ import annotations

import dataclasses
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serving.stores.errors import StoreCorruptError
from serving.stores.layout import Kind, Layout
from serving.stores.texts import Texts
from serving.stores.values import (
    Ids,
    UserId,
    Value,
    Values,
    check_length,
    check_names,
    checked_ids,
    checked_times,
    checked_user_id,
    checked_words,
)

_MAGIC = b"MUSEHIS1"
_ROWS_MAGIC = b"MUSEROW1"
_ROWS = struct.Struct("<8sqqqqQ")

_ONE_INT64 = Kind()
_USER = 0x9E3779B97F4A7C15
_ITEM = np.uint64(0xD6E8FEB86659FD93)
_FEATURE = 0xA0761D6478BD642F
_LAST = np.uint64(0xE7037ED1A0B428DB)
_HALF = np.uint64(32)
_MASK = (1 << 64) - 1


@dataclasses.dataclass(frozen=True)
class Header:
    """The header of a user's events.

    `start` is the number of dropped events. The check does not cover it, so
    that a store can increase it without computing a check. `user` has the words
    of the features, or is None if none were set.
    """

    user_id: int
    start: int = 0
    user: tuple[int, ...] | None = None


class Codec:
    """Converts arguments to records of a layout, and back.

    Words are int64: ids, numbers of 64 bits, and the bits of floats, which are
    packed into 32 bits. Those of events are (W, N): item id, time, features.

    Args:
        layout: the features that are stored.

    Attributes:
        layout: as given.
        header_bytes: size of a header.
        event_bytes: size of an event.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._texts = Texts(layout)
        self._user, floats = _places(layout.user, 0)
        self._user_missing = _missing(layout.user, self._user)
        longs = len(self._user_missing) - floats
        self._header = struct.Struct(f"<8sqqq{longs}q{floats}IQ")
        self._own, floats = _places(layout.behaviors, 1 + layout.times)
        self._event_missing = np.array(
            [0] * (1 + layout.times) + _missing(layout.behaviors, self._own)
        )[:, None]
        self._longs = len(self._event_missing) - floats
        fields: list[Any] = [("longs", "<i8", (self._longs,))]
        fields += [("floats", "<u4", (floats,))] if floats else []
        self._event = np.dtype([*fields, ("check", "<u4")])
        self.header_bytes = self._header.size
        self.event_bytes = self._event.itemsize

    def pack_header(self, header: Header) -> bytes:
        """Returns `header_bytes` bytes; the first 16 identify the user."""
        known = int(header.user is not None)
        user = header.user or (0,) * len(self._user_missing)
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
        """Returns the bytes of events, words (W, N)."""
        packed = np.empty(events.shape[1], self._event)
        packed["longs"] = events[: self._longs].T
        if self._longs < len(events):
            packed["floats"] = events[self._longs :].T
        packed["check"] = _check(user_id, events)
        return packed.tobytes()

    def unpack_events(
        self, user_id: int, data: bytes | bytearray | memoryview, key: str
    ) -> np.ndarray:
        """Returns words (W, N) of packed events."""
        if len(data) % self.event_bytes:
            raise StoreCorruptError(
                user_id,
                key,
                f"{len(data)} bytes are not a multiple of {self.event_bytes}",
            )
        packed = np.frombuffer(data, self._event)
        # A copy is contiguous and independent of the store's memory.
        events = np.empty((len(self._event_missing), len(packed)), np.int64)
        events[: self._longs] = packed["longs"].T
        if self._longs < len(events):
            events[self._longs :] = packed["floats"].T
        wrong = _check(user_id, events) != packed["check"]
        if wrong.any():
            raise StoreCorruptError(
                user_id,
                key,
                f"{int(wrong.sum())} of {len(packed)} events fail their check",
            )
        return events

    def user_of(self, words: Sequence[int]) -> dict[str, Any]:
        """Returns user features by name: numbers, or arrays (width,)."""
        found: dict[str, Any] = {}
        for name, (dtype, width) in self.layout.user.items():
            if dtype == "int64" and width == 1:
                found[name] = words[self._user[name].start]
                continue
            values = _as(dtype, np.array(words[self._user[name]], np.int64))
            found[name] = values[0].item() if width == 1 else values
        return found

    def behaviors_of(self, events: np.ndarray) -> dict[str, np.ndarray]:
        """Returns features of events by name: (N,), or (N, width)."""
        return {
            name: _as(
                dtype,
                events[self._own[name].start]
                if width == 1
                else np.ascontiguousarray(events[self._own[name]].T),
            )
            for name, (dtype, width) in self.layout.behaviors.items()
        }

    def checked_user_id(self, user_id: UserId) -> int:
        """Returns a user id as int64."""
        return checked_user_id(self._texts.ids("user_id", "user_id", user_id))

    def checked_user(self, user: Mapping[str, Value]) -> tuple[int, ...]:
        """Returns the words of user features; those not given are missing."""
        check_names("user", user, self.layout.user)
        words = list(self._user_missing)
        for name, value in user.items():
            kind, place = self.layout.user[name], self._user[name]
            if (
                type(value) is int
                and kind == _ONE_INT64
                and -(2**63) <= value < 2**63
            ):
                words[place.start] = value  # The fast path for most features.
            elif value is not None:
                field = f"user[{name!r}]"
                if kind.dtype == "int64":
                    value = self._texts.ids(f"user_{name}", field, value)
                words[place] = checked_words(field, [value], kind)[:, 0]
        return tuple(map(int, words))

    def checked_events(
        self,
        item_ids: Ids,
        behaviors: Mapping[str, Values],
        times: Ids | None = None,
    ) -> np.ndarray:
        """Returns words (W, N) of events; features not given are missing."""
        given = self._texts.ids("item_id", "item_ids", item_ids)
        items = checked_ids("item_ids", given)
        if not items.all():
            raise ValueError(
                "item_ids: expected ids other than 0, which means padding. "
                f"Received: 0 at position {int(np.argmin(items != 0))}"
            )
        check_names("behaviors", behaviors, self.layout.behaviors)
        events = np.repeat(self._event_missing, len(items), 1)
        events[0] = items
        if self.layout.times:
            events[1] = checked_times(times, len(items))
        elif times is not None:
            raise ValueError(
                "times: expected none, as the store keeps no times. Received: "
                f"{np.size(times)} times"
            )
        values: Any
        for name, values in behaviors.items():
            field, kind = f"behaviors[{name!r}]", self.layout.behaviors[name]
            if kind.dtype == "int64":
                values = self._texts.ids(f"behavior_{name}", field, values)
            is_list = isinstance(values, Sequence) or np.ndim(values)
            words = checked_words(field, values if is_list else [values], kind)
            check_length(field, words.shape[1], len(items))
            events[self._own[name]] = words
        return events


def _places(kinds: Mapping[str, Kind], first: int) -> tuple[Any, int]:
    """Returns the slice of words by feature, and the number of float words."""
    places, floats = {}, 0
    for dtype in ("int64", "float32"):
        for name, kind in kinds.items():
            if kind.dtype == dtype:
                places[name] = slice(first, first + kind.width)
                first += kind.width
                floats += kind.width * (dtype == "float32")
    return places, floats


def _missing(kinds: Mapping[str, Kind], places: Mapping[str, slice]) -> list:
    """Returns the words of missing features."""
    nan = int(np.float32(np.nan).view(np.uint32))
    return [
        nan if kinds[name].dtype == "float32" else 0
        for name in places
        for _ in range(kinds[name].width)
    ]


def _as(dtype: str, words: np.ndarray) -> np.ndarray:
    """Converts words to the dtype of their values."""
    if dtype == "int64":
        return words
    return words.astype(np.uint32).view(np.float32)


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

    Both are None if the record does not cover the `count` events before `end`.
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


def _header_check(user_id: int, known: int, user: Sequence[int]) -> int:
    fields = (user_id, known, *user)
    return zlib.crc32(_MAGIC + struct.pack(f"<{len(fields)}q", *fields))


def _rows_check(plain: tuple[int, ...], body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(struct.pack("<4q", *plain)))


def _check(user_id: int, events: np.ndarray) -> np.ndarray:
    """Returns uint32 (N,). The format fixes the order of the products."""
    items, *features = events.view(np.uint64)
    mixed = items * _ITEM
    mixed ^= mixed >> _HALF
    for place, values in enumerate(features):
        # Factors differ by position, so that exchanged features are detected.
        mixed += values * np.uint64(_FEATURE * (2 * place + 1) & _MASK)
        mixed ^= mixed >> _HALF
    mixed += np.uint64(((user_id + 1) * _USER) & _MASK)
    mixed *= _LAST
    return (mixed >> _HALF).astype(np.uint32)
