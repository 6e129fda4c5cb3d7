"""Histories in an LMDB file: one machine, many readers, one writer."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import struct
import zlib
from collections.abc import Iterator

import lmdb
import numpy as np

from serving.stores import base, records
from serving.stores.errors import (
    StoreCorruptError,
    StoreError,
    StoreMovedError,
    StoreUnavailableError,
)

BLOCK_EVENTS = 408
"""Events of a block: two pages of LMDB, so an append rewrites at most these."""

_MAP_BYTES = 1 << 40
_MAX_READERS = 1024
_FORMAT = b"1"
_END = struct.Struct("<qI")
_TOTALS = struct.Struct("<qqq")
_SIGN = 1 << 63


class LmdbStore(base.BehaviorStore):
    """Histories in an LMDB folder.

    A history lies in blocks of `BLOCK_EVENTS` events: an append rewrites the
    last one and the header, whatever the length of the history. Every change
    is one LMDB transaction: a process that is killed in the middle of it
    leaves what was there before, and readers never see half of it. Any number
    of processes read while one writes; a second writer waits for the first.

    Open the store once per process, and after a fork, not before: calls in a
    process that was forked later fail. The folder
    may be removed or replaced while it is open: every call fails then. Its
    file must not be cut short under a process that has it open: the system
    ends a process that reads what is gone.

    Args:
        path: the folder.
        limit: events kept of a user.
        create: whether to make a folder that is not there.
        sync: whether a change is on the disk when the call returns. Without
            it a crash of the machine, but not of the process, can lose or
            damage what was written last.
        map_bytes: most bytes that the file may grow to. It is address space,
            not memory and not disk.

    Attributes:
        is_new: whether it was not there before.

    Raises:
        ValueError: limit below 1.
        StoreError: no such folder, or not a behavior store.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        limit: int = base.LIMIT,
        create: bool = True,
        sync: bool = True,
        map_bytes: int = _MAP_BYTES,
    ) -> None:
        super().__init__(limit)
        self.path = pathlib.Path(path)
        self._name = f"the behavior store in {self.path}"
        self.is_new = not (self.path / "data.mdb").is_file()
        if self.is_new and not create:
            raise StoreError(f"no behavior store in {self.path}")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._env = lmdb.open(
                str(self.path),
                map_size=map_bytes,
                max_dbs=4,
                max_readers=_MAX_READERS,
                sync=sync,
                readahead=False,
            )
        except (lmdb.Error, OSError) as error:
            raise StoreError(
                f"{self._name} cannot be opened: {error}"
            ) from error
        try:
            self._users, self._events, self._rows, self._info = self._tables()
            # What killed readers left behind would keep old pages alive.
            self._env.reader_check()
            self._file = self._file_now()
            self._process = os.getpid()
            self._check_format()
        except lmdb.Error as error:
            self._env.close()
            raise StoreError(
                f"{self.path} is not a behavior store: {error}"
            ) from error
        except StoreError:
            self._env.close()
            raise

    def _read(self, user_id: int, count: int) -> base.UserHistory | None:
        with self._transaction(write=False) as txn:
            found = self._header(txn, user_id)
            if found is None:
                return None
            header, end = found
            first = max(header.start, end - count)
            return base.history_of(
                header,
                end,
                self._read_events(txn, user_id, first, end),
                txn.get(_user_key(user_id), db=self._rows),
                f"rows/{user_id}",
            )

    def _append_many(self, users: list[base.CheckedEvents]) -> None:
        """Appends events of all users in one transaction."""
        with self._transaction(write=True) as txn:
            for user_id, items, categories in users:
                self._append(txn, user_id, items, categories)

    def _set_profile(self, user_id: int, profile: tuple[int, ...]) -> None:
        with self._transaction(write=True) as txn:
            header, end = self._header_or_new(txn, user_id)
            header = dataclasses.replace(header, profile=profile)
            self._put_header(txn, header, end)

    def _set_rows(
        self, user_id: int, rows: np.ndarray, table_stamp: int, end: int | None
    ) -> bool:
        with self._transaction(write=True) as txn:
            found = self._header(txn, user_id)
            if found is None:
                raise ValueError(f"user_id: {user_id} is not in the store")
            header, now = found
            if end is not None and end != now:
                return False
            kept = min(now - header.start, self.limit)
            record = base.rows_record(user_id, rows, table_stamp, kept, now)
            key = _user_key(user_id)
            if txn.get(key, db=self._rows) is None:
                self._count(txn, rows=1)
            txn.put(key, record, db=self._rows)
        return True

    def _trim(self, user_id: int, limit: int) -> None:
        with self._transaction(write=True) as txn:
            found = self._header(txn, user_id)
            if found is not None:
                self._put_trimmed(txn, *found, limit)

    def _replace_many(
        self,
        users: list[tuple[records.Header, np.ndarray, np.ndarray]],
        mark: base.Mark | None,
    ) -> None:
        """Replaces all users in one transaction, the mark with them."""
        with self._transaction(write=True) as txn:
            for header, items, categories in users:
                start = self._forget(txn, header.user_id)
                header = dataclasses.replace(header, start=start)
                self._put_header(txn, header, start)
                self._append(txn, header.user_id, items, categories)
            if mark is not None:
                key = b"mark/" + mark.name.encode()
                txn.put(key, mark.text.encode(), db=self._info)

    def _delete_many(self, user_ids: list[int]) -> int:
        """Deletes all users in one transaction."""
        count = 0
        with self._transaction(write=True) as txn:
            for user_id in user_ids:
                key = _user_key(user_id)
                if txn.get(key, db=self._users) is None:
                    continue
                self._forget(txn, user_id)
                txn.delete(key, db=self._users)
                self._count(txn, users=-1)
                count += 1
        return count

    def read_mark(self, name: str) -> str | None:
        """See `BehaviorStore.read_mark`."""
        with self._transaction(write=False) as txn:
            found = txn.get(b"mark/" + name.encode(), db=self._info)
            return None if found is None else bytes(found).decode()

    def user_ids(self) -> Iterator[int]:
        """See `BehaviorStore.user_ids`; no reader is held meanwhile."""
        last = b""
        while True:
            with self._transaction(write=False) as txn:
                cursor = txn.cursor(db=self._users)
                keys = []
                if cursor.set_range(last):
                    for key in cursor.iternext(values=False):
                        if bytes(key) != last:
                            keys.append(bytes(key))
                        if len(keys) == 4096:
                            break
            if not keys:
                return
            for key in keys:
                yield int.from_bytes(key, "big") - _SIGN
            last = keys[-1]

    def stats(self) -> base.StoreStats:
        """See `BehaviorStore.stats`; bytes are those of the used pages."""
        with self._transaction(write=False) as txn:
            users, kept, rows = self._totals(txn)
            page = self._env.stat()["psize"]
            pages = self._env.info()["last_pgno"] + 1
        return base.StoreStats(users, kept, rows, pages * page, self.limit)

    def close(self) -> None:
        """See `BehaviorStore.close`."""
        self._env.close()

    def remove(self) -> None:
        """Deletes the store's files, and its folder if no more is in it."""
        for name in ("data.mdb", "lock.mdb"):
            (self.path / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()

    # Inside a transaction.

    @contextlib.contextmanager
    def _transaction(self, *, write: bool) -> Iterator[lmdb.Transaction]:
        if os.getpid() != self._process:
            raise StoreError(
                f"{self._name} was opened before a fork; open it again in this "
                "process"
            )
        # What is written to a removed file would be lost.
        if self._file_now() != self._file:
            raise StoreMovedError(
                f"{self._name} was removed or replaced; open it again"
            )
        try:
            with self._env.begin(write=write, buffers=True) as txn:
                yield txn
        except lmdb.MapFullError as error:
            raise StoreError(
                f"{self._name} has reached its map_bytes; open it with more"
            ) from error
        except lmdb.ReadersFullError as error:
            raise StoreUnavailableError(
                f"{self._name} has {_MAX_READERS} readers at once already"
            ) from error
        except lmdb.Error as error:
            # LMDB calls a write that came to half an error of the disk.
            hint = "; is the disk full?" if "commit" in str(error) else ""
            raise StoreError(f"{self._name}: {error}{hint}") from error

    def _tables(self) -> list[lmdb._Database]:
        """Opens the tables, and makes them in a new store.

        In a transaction of our own: one that the package begins for it waits
        for another writer with the interpreter's lock held.
        """
        with self._env.begin(write=True) as txn:
            return [
                self._env.open_db(name, txn)
                for name in (b"users", b"events", b"rows", b"info")
            ]

    def _file_now(self) -> tuple[int, int] | None:
        """Tells the file apart from one that takes its place."""
        try:
            found = os.stat(self.path / "data.mdb")
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _check_format(self) -> None:
        with self._transaction(write=False) as txn:
            found = txn.get(b"format", db=self._info)
            found = None if found is None else bytes(found)
        if found is None:
            with self._transaction(write=True) as txn:
                txn.put(b"format", _FORMAT, overwrite=False, db=self._info)
        elif found != _FORMAT:
            raise StoreError(
                f"{self._name} has format {found!r}. Expected: {_FORMAT!r}"
            )

    def _header(
        self, txn: lmdb.Transaction, user_id: int
    ) -> tuple[records.Header, int] | None:
        data = txn.get(_user_key(user_id), db=self._users)
        if data is None:
            return None
        name = f"users/{user_id}"
        if len(data) != records.HEADER_BYTES + _END.size:
            raise StoreCorruptError(user_id, name, f"has {len(data)} bytes")
        body = data[: records.HEADER_BYTES]
        end, check = _END.unpack(data[records.HEADER_BYTES :])
        header = records.Header.unpack(user_id, body, name)
        if check != _end_check(body, end) or not header.start <= end:
            raise StoreCorruptError(user_id, name, "the end fails its check")
        return header, end

    def _header_or_new(
        self, txn: lmdb.Transaction, user_id: int
    ) -> tuple[records.Header, int]:
        found = self._header(txn, user_id)
        if found is not None:
            return found
        self._count(txn, users=1)
        return records.Header(user_id), 0

    def _put_header(
        self, txn: lmdb.Transaction, header: records.Header, end: int
    ) -> None:
        body = header.pack()
        txn.put(
            _user_key(header.user_id),
            body + _END.pack(end, _end_check(body, end)),
            db=self._users,
        )

    def _read_events(
        self, txn: lmdb.Transaction, user_id: int, first: int, end: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns ids of the events numbered first to end, oldest first."""
        numbers = range(first // BLOCK_EVENTS, -(-end // BLOCK_EVENTS))
        data = b"".join(
            self._block(txn, user_id, number, end) for number in numbers
        )
        skip = first % BLOCK_EVENTS * records.EVENT_BYTES
        return records.unpack_events(
            user_id, memoryview(data)[skip:], f"events/{user_id}"
        )

    def _block(
        self, txn: lmdb.Transaction, user_id: int, number: int, end: int
    ) -> bytes | memoryview:
        """Returns a block of a history of `end` events, of the right size."""
        block = txn.get(_block_key(user_id, number), db=self._events)
        events = min(BLOCK_EVENTS, end - number * BLOCK_EVENTS)
        size = events * records.EVENT_BYTES
        if block is None or len(block) != size:
            reason = "none" if block is None else f"{len(block)} bytes"
            raise StoreCorruptError(
                user_id,
                f"events/{user_id}/{number}",
                f"expected a block of {size} bytes. Received: {reason}",
            )
        return block

    def _append(
        self,
        txn: lmdb.Transaction,
        user_id: int,
        items: np.ndarray,
        categories: np.ndarray,
    ) -> None:
        header, end = self._header_or_new(txn, user_id)
        data = records.pack_events(user_id, items, categories)
        number, inside = divmod(end, BLOCK_EVENTS)
        if inside:
            data = b"".join((self._block(txn, user_id, number, end), data))
        size = BLOCK_EVENTS * records.EVENT_BYTES
        for offset in range(0, len(data), size):
            txn.put(
                _block_key(user_id, number + offset // size),
                data[offset : offset + size],
                db=self._events,
            )
        self._count(txn, events=len(items))
        if len(items) and txn.delete(_user_key(user_id), db=self._rows):
            self._count(txn, rows=-1)
        self._put_trimmed(txn, header, end + len(items), self.limit)

    def _put_trimmed(
        self,
        txn: lmdb.Transaction,
        header: records.Header,
        end: int,
        limit: int,
    ) -> None:
        """Deletes blocks before the newest `limit` events, and says so."""
        start = max(header.start, end - limit)
        first, stop = header.start // BLOCK_EVENTS, start // BLOCK_EVENTS
        for number in range(first, stop):
            txn.delete(_block_key(header.user_id, number), db=self._events)
        if start != header.start:
            self._count(txn, events=header.start - start)
            header = dataclasses.replace(header, start=start)
        self._put_header(txn, header, end)

    def _forget(self, txn: lmdb.Transaction, user_id: int) -> int:
        """Deletes a user's events and rows, damaged ones too.

        Returns the number for the next event: numbers go on, in a new block, so
        that no old state looks like the new one.
        """
        end = 0
        try:
            header, end = self._header_or_new(txn, user_id)
            self._count(txn, events=header.start - end)
        except StoreCorruptError:
            pass  # Its events stay in the totals; all else is made anew.
        cursor = txn.cursor(db=self._events)
        mine = _user_key(user_id)
        is_there = cursor.set_range(mine)
        while is_there and bytes(cursor.key())[: len(mine)] == mine:
            is_there = cursor.delete()
        if txn.delete(mine, db=self._rows):
            self._count(txn, rows=-1)
        return -(-end // BLOCK_EVENTS) * BLOCK_EVENTS

    def _totals(self, txn: lmdb.Transaction) -> tuple[int, ...]:
        found = txn.get(b"totals", db=self._info)
        if found is None:
            return 0, 0, 0
        if len(found) != _TOTALS.size:
            raise StoreError(f"{self._name}: its totals are damaged")
        return _TOTALS.unpack(found)

    def _count(
        self,
        txn: lmdb.Transaction,
        *,
        users: int = 0,
        events: int = 0,
        rows: int = 0,
    ) -> None:
        now = self._totals(txn)
        changed = (now[0] + users, now[1] + events, now[2] + rows)
        txn.put(b"totals", _TOTALS.pack(*changed), db=self._info)


def _user_key(user_id: int) -> bytes:
    return (user_id + _SIGN).to_bytes(8, "big")


def _block_key(user_id: int, number: int) -> bytes:
    return _user_key(user_id) + number.to_bytes(8, "big")


def _end_check(header: bytes | memoryview, end: int) -> int:
    return zlib.crc32(struct.pack("<q", end), zlib.crc32(header))
