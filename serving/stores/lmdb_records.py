"""Records of users in an LMDB store, within one transaction.

A history is stored in blocks of a fixed number of events, numbered from the
first event ever appended. The header tells which blocks are kept.
"""

from __future__ import annotations

import dataclasses
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import lmdb
import numpy as np

from serving.stores.errors import StoreCorruptError
from serving.stores.records import Codec, Header

BLOCK_BYTES = 8176
"""Maximum bytes of a block: two pages of LMDB. An append rewrites one block."""

_END = struct.Struct("<qI")
_TOTALS = struct.Struct("<qqq")
_SIGN = 1 << 63


class Tables(NamedTuple):
    """The tables of the file, named as in the file."""

    users: lmdb._Database
    events: lmdb._Database
    rows: lmdb._Database
    info: lmdb._Database


class LmdbRecords:
    """Reads and writes records in one transaction."""

    def __init__(
        self, txn: lmdb.Transaction, tables: Tables, codec: Codec
    ) -> None:
        self._txn = txn
        self._tables = tables
        self._codec = codec
        self._block_events = max(1, BLOCK_BYTES // codec.event_bytes)

    def header(self, user_id: int) -> tuple[Header, int] | None:
        """Returns a user's header and the number after the newest event."""
        data = self._txn.get(_user_key(user_id), db=self._tables.users)
        if data is None:
            return None
        name = f"users/{user_id}"
        size = self._codec.header_bytes
        if len(data) != size + _END.size:
            raise StoreCorruptError(user_id, name, f"has {len(data)} bytes")
        body = data[:size]
        end, check = _END.unpack(data[size:])
        header = self._codec.unpack_header(user_id, body, name)
        if check != _end_check(body, end) or not header.start <= end:
            raise StoreCorruptError(user_id, name, "the end fails its check")
        return header, end

    def header_or_new(self, user_id: int) -> tuple[Header, int]:
        """Returns `header`, or a new one for an unknown user."""
        found = self.header(user_id)
        if found is not None:
            return found
        self._count(users=1)
        return Header(user_id), 0

    def put_header(self, header: Header, end: int) -> None:
        """Writes a user's header and the number after the newest event."""
        body = self._codec.pack_header(header)
        data = body + _END.pack(end, _end_check(body, end))
        self._txn.put(_user_key(header.user_id), data, db=self._tables.users)

    def events(self, user_id: int, first: int, end: int) -> np.ndarray:
        """Returns the events from `first` to before `end`, words (W, N)."""
        size = self._block_events
        numbers = range(first // size, -(-end // size))
        data = b"".join(self._block(user_id, number, end) for number in numbers)
        skip = first % size * self._codec.event_bytes
        return self._codec.unpack_events(
            user_id, memoryview(data)[skip:], f"events/{user_id}"
        )

    def append(self, user: Header, events: np.ndarray, limit: int) -> None:
        """Appends events and trims; only the last block is rewritten.

        User features are set if `user` has any.
        """
        user_id, count = user.user_id, events.shape[1]
        header, end = self.header_or_new(user_id)
        if user.user is not None:
            header = dataclasses.replace(header, user=user.user)
        if count:
            self._append(user_id, end, self._codec.pack_events(user_id, events))
            self._count(events=count)
            self._forget_rows(user_id)
        self.trim(header, end + count, limit)

    def trim(self, header: Header, end: int, limit: int) -> None:
        """Deletes blocks before the newest `limit` events."""
        start = max(header.start, end - limit)
        size = self._block_events
        for number in range(header.start // size, start // size):
            key = _block_key(header.user_id, number)
            self._txn.delete(key, db=self._tables.events)
        if start != header.start:
            self._count(events=header.start - start)
            header = dataclasses.replace(header, start=start)
        self.put_header(header, end)

    def rows(self, user_id: int) -> bytes | memoryview | None:
        """Returns the record of a user's rows."""
        return self._txn.get(_user_key(user_id), db=self._tables.rows)

    def put_rows(self, user_id: int, record: bytes) -> None:
        """Writes the record of a user's rows."""
        if self.rows(user_id) is None:
            self._count(rows=1)
        self._txn.put(_user_key(user_id), record, db=self._tables.rows)

    def forget(self, user_id: int) -> int:
        """Deletes a user's events and rows, including damaged ones.

        Returns the number for the next event. Numbers continue in a new block,
        so that no old state looks like the new one.
        """
        end = 0
        try:
            header, end = self.header_or_new(user_id)
            self._count(events=header.start - end)
        except StoreCorruptError:
            pass  # Its events stay in the totals; the rest is created anew.
        cursor = self._txn.cursor(db=self._tables.events)
        mine = _user_key(user_id)
        is_there = cursor.set_range(mine)
        while is_there and bytes(cursor.key())[: len(mine)] == mine:
            is_there = cursor.delete()
        self._forget_rows(user_id)
        return -(-end // self._block_events) * self._block_events

    def delete(self, user_id: int) -> bool:
        """Deletes a user; returns whether there was one."""
        key = _user_key(user_id)
        if self._txn.get(key, db=self._tables.users) is None:
            return False
        self.forget(user_id)
        self._txn.delete(key, db=self._tables.users)
        self._count(users=-1)
        return True

    def users_after(self, last: bytes, most: int) -> Iterator[bytes]:
        """Yields keys of users after `last`, which may be empty."""
        cursor = self._txn.cursor(db=self._tables.users)
        if not cursor.set_range(last):
            return
        for key in map(bytes, cursor.iternext(values=False)):
            if key != last:
                yield key
                most -= 1
            if not most:
                return

    def note(self, key: bytes) -> bytes | None:
        """Returns a text about the whole store."""
        found = self._txn.get(key, db=self._tables.info)
        return None if found is None else bytes(found)

    def put_note(self, key: bytes, text: bytes) -> None:
        """Writes a text about the whole store."""
        self._txn.put(key, text, db=self._tables.info)

    def totals(self) -> tuple[int, ...]:
        """Returns the numbers of users, events and users with rows."""
        found = self.note(b"totals")
        if found is None:
            return 0, 0, 0
        if len(found) != _TOTALS.size:
            raise lmdb.CorruptedError("its totals are damaged")
        return _TOTALS.unpack(found)

    def _append(self, user_id: int, end: int, data: bytes) -> None:
        """Writes packed events after the `end` of a history."""
        number, inside = divmod(end, self._block_events)
        if inside:
            data = b"".join((self._block(user_id, number, end), data))
        size = self._block_events * self._codec.event_bytes
        for offset in range(0, len(data), size):
            self._txn.put(
                _block_key(user_id, number + offset // size),
                data[offset : offset + size],
                db=self._tables.events,
            )

    def _block(self, user_id: int, number: int, end: int) -> bytes | memoryview:
        """Returns a block of a history of `end` events; checks its size."""
        key = _block_key(user_id, number)
        block = self._txn.get(key, db=self._tables.events)
        events = min(self._block_events, end - number * self._block_events)
        size = events * self._codec.event_bytes
        if block is None or len(block) != size:
            reason = "none" if block is None else f"{len(block)} bytes"
            raise StoreCorruptError(
                user_id,
                f"events/{user_id}/{number}",
                f"expected a block of {size} bytes. Received: {reason}",
            )
        return block

    def _forget_rows(self, user_id: int) -> None:
        if self._txn.delete(_user_key(user_id), db=self._tables.rows):
            self._count(rows=-1)

    def _count(self, *, users: int = 0, events: int = 0, rows: int = 0) -> None:
        now = self.totals()
        changed = (now[0] + users, now[1] + events, now[2] + rows)
        self.put_note(b"totals", _TOTALS.pack(*changed))


def user_of(key: bytes) -> int:
    """Returns the user id of a key."""
    return int.from_bytes(key, "big") - _SIGN


def _user_key(user_id: int) -> bytes:
    return (user_id + _SIGN).to_bytes(8, "big")


def _block_key(user_id: int, number: int) -> bytes:
    return _user_key(user_id) + number.to_bytes(8, "big")


def _end_check(header: bytes | memoryview, end: int) -> int:
    return zlib.crc32(struct.pack("<q", end), zlib.crc32(header))
