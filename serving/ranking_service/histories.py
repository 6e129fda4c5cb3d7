"""Histories from the behaviour store, read in threads."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from serving.ranking_service.workers import Workers
from serving.stores import (
    BehaviorStore,
    StoreError,
    StoreMovedError,
    StoreUnavailableError,
    UserHistory,
    open_store,
)

__all__ = ["NO_HISTORY", "Histories", "History", "StoreBusyError"]

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")
PROFILE_SIZE = 5


class StoreBusyError(StoreError):
    """All threads wait for the store already."""


@dataclasses.dataclass(frozen=True, eq=False)
class History:
    """What the store knows about a user.

    Attributes:
        profile: int64 (5,).
        item_ids: int64 (L,), oldest first.
        category_ids: int64 (L,).
        rows: int32 (L,), rows of the model's item table; None where unknown.
        table_stamp: which item table they mean.
    """

    profile: np.ndarray
    item_ids: np.ndarray
    category_ids: np.ndarray
    rows: np.ndarray | None = None
    table_stamp: int | None = None

    def __len__(self) -> int:
        """How many behaviours there are."""
        return len(self.item_ids)

    def newest(self, count: int) -> History:
        """The newest behaviours only."""
        start = max(0, len(self) - count)
        return dataclasses.replace(
            self,
            item_ids=self.item_ids[start:],
            category_ids=self.category_ids[start:],
            rows=None if self.rows is None else self.rows[start:],
        )


NO_HISTORY = History(
    profile=np.zeros(PROFILE_SIZE, np.int64),
    item_ids=np.zeros(0, np.int64),
    category_ids=np.zeros(0, np.int64),
)
"""What is known about nobody."""


class Histories:
    """Reads and appends without blocking the event loop.

    The store is opened with the first call, and again when that failed, so a
    service starts while its store is down. Appends have threads of their own:
    they may wait for another writer, and reads do not wait with them.

    Attributes:
        answered: when a read last came back, by `time.monotonic`.
    """

    def __init__(
        self, url: str, limit: int, threads: int, timeout: float
    ) -> None:
        self._timeout = timeout
        self._store = _SharedStore(url, limit, timeout)
        self._reads = Workers("store-read", threads, 2 * threads)
        self._appends = Workers("store-append", threads, 2 * threads)
        self._closed = False
        self.answered = 0.0

    @property
    def exist(self) -> bool:
        """Whether there is a store."""
        return bool(self._store.url)

    async def read(
        self, user_id: int, limit: int | None = None
    ) -> History | None:
        """Reads a user's newest behaviours.

        Raises:
            StoreError: the store failed, holds garbage or is busy.
            asyncio.TimeoutError: it takes too long.
        """

        def work(store: BehaviorStore) -> History | None:
            found = store.read(user_id, limit or self._store.limit)
            return None if found is None else _history(user_id, found)

        found = await self._call(self._reads, work)
        self.answered = time.monotonic()
        return found

    async def append(
        self, user_id: int, item_ids: np.ndarray, category_ids: np.ndarray
    ) -> None:
        """Appends behaviours, oldest first.

        Raises:
            StoreError: the store failed or is busy.
            asyncio.TimeoutError: it takes too long; the events may have been
                stored, or may yet be.
        """
        await self._call(
            self._appends,
            lambda store: store.append(user_id, item_ids, category_ids),
        )

    def close(self, seconds: float) -> None:
        """Closes the store once the calls in flight have ended."""
        ends = time.monotonic() + seconds
        self._closed = True
        kinds = (self._reads, self._appends)
        if all([kind.close(ends - time.monotonic()) for kind in kinds]):
            self._store.close()
        else:
            _logger.warning("Stopped with calls of the store in flight")

    async def _call(
        self, workers: Workers, work: Callable[[BehaviorStore], _T]
    ) -> _T:
        if self._closed:
            raise StoreUnavailableError("the ranking service is stopping")
        try:
            future = workers.submit(lambda: self._store.call(work))
        except queue.Full:
            raise StoreBusyError(
                "the store has too many calls waiting"
            ) from None
        return await asyncio.wait_for(
            asyncio.wrap_future(future), self._timeout
        )


class _SharedStore:
    """The store, opened when it is needed, for many threads."""

    def __init__(self, url: str, limit: int, timeout: float) -> None:
        self.url = url
        self.limit = limit
        self._timeout = timeout
        self._lock = threading.Lock()
        self._store: BehaviorStore | None = None
        self._users = 0
        self._moved = False

    def call(self, work: Callable[[BehaviorStore], _T]) -> _T:
        """Lets `work` use the store."""
        with self._lock:
            store = self._open()
            self._users += 1
        try:
            return work(store)
        except StoreMovedError:
            with self._lock:
                # Another thread may have opened the new one meanwhile.
                self._moved = self._moved or self._store is store
            raise
        finally:
            with self._lock:
                self._users -= 1

    def close(self) -> None:
        """Closes it."""
        if self._store is not None:
            self._store.close()

    def _open(self) -> BehaviorStore:
        if self._moved and not self._users and self._store is not None:
            self._store.close()
            self._store, self._moved = None, False
        if self._moved:
            raise StoreUnavailableError("the store is being opened again")
        if self._store is None:
            self._store = open_store(
                self.url,
                limit=self.limit,
                timeout=self._timeout,
                # An empty one must not stand for one that is elsewhere.
                create=False,
            )
        return self._store


def _history(user_id: int, found: UserHistory) -> History:
    profile = np.asarray(found.profile, np.int64)
    items, categories, rows = found.oldest_first()
    if (
        found.user_id != user_id
        or profile.shape != (PROFILE_SIZE,)
        or items.ndim != 1
        or items.shape != categories.shape
    ):
        raise StoreError(f"the store's answer is not of user {user_id}")
    if rows is not None and (
        found.table_stamp is None or len(rows) != len(items)
    ):
        rows = None
    return History(
        profile=profile,
        item_ids=np.asarray(items, np.int64),
        category_ids=np.asarray(categories, np.int64),
        rows=None if rows is None else np.asarray(rows, np.int32),
        table_stamp=None if rows is None else found.table_stamp,
    )
