"""Histories in an LMDB file, for one machine: many readers, one writer."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterator

import lmdb
import numpy as np

from serving.stores import base
from serving.stores.errors import (
    StoreError,
    StoreMovedError,
    StoreUnavailableError,
)
from serving.stores.layout import Layout, no_store, read_layout
from serving.stores.lmdb_records import LmdbRecords, Tables, user_of
from serving.stores.records import Codec

_MAP_BYTES = 1 << 40
_MAX_READERS = 1024
_FORMAT = b"format"
_USERS_AT_ONCE = 4096


class LmdbStore(base.BehaviorStore):
    """Histories in an LMDB folder.

    An append rewrites the last block of a history and its header, for any
    length of the history. Every change is one LMDB transaction, so that a
    killed process leaves the previous state, and readers never see a partial
    change. Any number of processes read while one writes; a second writer
    waits for the first.

    Open the store once per process. After a fork, open it again, because calls
    fail in the child process. If the folder is removed or replaced, all calls
    fail. Do not truncate the file while a process has it open: the system
    kills a process that reads beyond the end.

    Args:
        path: the folder.
        layout: features of a new store; None if the store must exist, which
            has its own layout.
        limit: maximum number of events of a user.
        old_format: whether stores of formats 1 and 2 are opened, to copy them.
        sync: whether a change is on disk when the call returns. Without it, a
            crash of the machine (but not of the process) can lose or damage
            the last changes.
        map_bytes: maximum size of the file. It is reserved address space,
            neither memory nor disk.

    Raises:
        ValueError: the limit is below 1.
        StoreError: there is no store and no layout, or the folder is not a
            behavior store.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        layout: Layout | None = None,
        *,
        limit: int = base.LIMIT,
        old_format: bool = False,
        sync: bool = True,
        map_bytes: int = _MAP_BYTES,
    ) -> None:
        super().__init__(limit)
        self.path = pathlib.Path(path)
        self._name = f"the behavior store in {self.path}"
        self.is_new = not (self.path / "data.mdb").is_file()
        if self.is_new and layout is None:
            raise no_store(str(self.path))
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
            self._check_size()
            self._tables, self._codec = self._open_tables(layout, old_format)
            # Entries of killed readers would keep old pages in use.
            self._env.reader_check()
            self._file = self._file_now()
            self._process = os.getpid()
        except lmdb.Error as error:
            self._env.close()
            raise StoreError(
                f"{self.path} is not a behavior store: {error}"
            ) from error
        except StoreError:
            self._env.close()
            raise

    def _check_size(self) -> None:
        """Rejects a truncated file, as reading it would kill the process."""
        pages = self._env.info()["last_pgno"] + 1
        size = pages * self._env.stat()["psize"]
        found = (self.path / "data.mdb").stat().st_size
        if found < size:
            raise StoreError(
                f"{self._name} is cut off: data.mdb has {found:,} bytes of at "
                f"least {size:,}; copy it again, or load the store again"
            )

    def _read(self, user_id: int, count: int) -> base.UserHistory | None:
        with self._records(write=False) as records:
            found = records.header(user_id)
            if found is None:
                return None
            header, end = found
            first = max(header.start, end - count)
            return self._history(
                header,
                end,
                records.events(user_id, first, end),
                records.rows(user_id),
                f"rows/{user_id}",
            )

    def _append_many(self, users: list[base.CheckedUser]) -> None:
        """Appends events of all users in one transaction."""
        with self._records(write=True) as records:
            for header, events in users:
                records.append(header, events, self.limit)

    def _set_rows(
        self, user_id: int, rows: np.ndarray, table_stamp: int, end: int | None
    ) -> bool:
        with self._records(write=True) as records:
            found = records.header(user_id)
            if found is None:
                raise ValueError(f"user_id: {user_id} is not in the store")
            header, now = found
            if end is not None and end != now:
                return False
            kept = min(now - header.start, self.limit)
            record = base.rows_record(user_id, rows, table_stamp, kept, now)
            records.put_rows(user_id, record)
        return True

    def _trim(self, user_id: int, limit: int) -> None:
        with self._records(write=True) as records:
            found = records.header(user_id)
            if found is not None:
                records.trim(*found, limit)

    def _replace_many(
        self, users: list[base.CheckedUser], mark: base.Mark | None
    ) -> None:
        """Replaces all users and writes the mark in one transaction."""
        with self._records(write=True) as records:
            for header, events in users:
                start = records.forget(header.user_id)
                header = dataclasses.replace(header, start=start)
                records.put_header(header, start)
                records.append(header, events, self.limit)
            if mark is not None:
                records.put_note(_mark_key(mark.name), mark.text.encode())

    def _delete_many(self, user_ids: list[int]) -> int:
        """Deletes all users in one transaction."""
        with self._records(write=True) as records:
            return sum(map(records.delete, user_ids))

    def read_mark(self, name: str) -> str | None:
        """See `BehaviorStore.read_mark`."""
        with self._records(write=False) as records:
            found = records.note(_mark_key(name))
        return None if found is None else found.decode()

    def user_ids(self) -> Iterator[int]:
        """See `BehaviorStore.user_ids`. No transaction stays open meanwhile."""
        keys = [b""]
        while keys:
            with self._records(write=False) as records:
                keys = list(records.users_after(keys[-1], _USERS_AT_ONCE))
            yield from map(user_of, keys)

    def stats(self) -> base.StoreStats:
        """See `BehaviorStore.stats`. `bytes` is the size of the used pages."""
        with self._records(write=False) as records:
            users, kept, rows = records.totals()
            page = self._env.stat()["psize"]
            pages = self._env.info()["last_pgno"] + 1
        return base.StoreStats(users, kept, rows, pages * page, self.limit)

    def close(self) -> None:
        """See `BehaviorStore.close`."""
        self._env.close()

    def remove(self) -> None:
        """Deletes the files, and the folder if it is empty then."""
        for name in ("data.mdb", "lock.mdb"):
            (self.path / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()

    @contextlib.contextmanager
    def _records(self, *, write: bool) -> Iterator[LmdbRecords]:
        """Runs a transaction while the context is open."""
        if os.getpid() != self._process:
            raise StoreError(
                f"{self._name} was opened before a fork; open it again in this "
                "process"
            )
        # A write to a removed file would be lost.
        if self._file_now() != self._file:
            raise StoreMovedError(
                f"{self._name} was removed or replaced; open it again"
            )
        try:
            with self._env.begin(write=write, buffers=True) as txn:
                yield LmdbRecords(txn, self._tables, self._codec)
        except lmdb.MapFullError as error:
            raise StoreError(
                f"{self._name} has reached its map_bytes; open it with more"
            ) from error
        except lmdb.ReadersFullError as error:
            raise StoreUnavailableError(
                f"{self._name} already has {_MAX_READERS} concurrent readers"
            ) from error
        except lmdb.Error as error:
            # LMDB reports a partial write as an I/O error.
            hint = "; is the disk full?" if "commit" in str(error) else ""
            raise StoreError(f"{self._name}: {error}{hint}") from error

    def _open_tables(
        self, layout: Layout | None, old_format: bool
    ) -> tuple[Tables, Codec]:
        """Opens the tables, and creates them in a new store.

        The transaction is created here, because the package would wait for
        another writer while holding the interpreter's lock.
        """
        with self._env.begin(write=True) as txn:
            tables = Tables(
                *(
                    self._env.open_db(name.encode(), txn)
                    for name in Tables._fields
                )
            )
            found = txn.get(_FORMAT, db=tables.info)
            if found is None:
                if layout is None:
                    raise no_store(str(self.path))
                found = layout.record()
                txn.put(_FORMAT, found, db=tables.info)
            return tables, Codec(read_layout(found, self._name, old_format))

    def _file_now(self) -> tuple[int, int] | None:
        """Returns a value that changes if another file replaces this one."""
        try:
            found = os.stat(self.path / "data.mdb")
        except OSError:
            return None
        return found.st_dev, found.st_ino


def _mark_key(name: str) -> bytes:
    return b"mark/" + name.encode()
