"""Histories from the behaviour store, read in threads."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from serving.stores import BehaviorStore, StoreError, UserHistory, open_store

__all__ = ["Histories", "History", "StoreBusyError"]

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


class Histories:
    """Reads and appends without blocking the event loop.

    The store is opened with the first call, and again when that failed, so a
    service starts while its store is down.

    Args:
        url: of the store; empty where there is none.
        limit: newest behaviours that a read returns at most.
        threads: calls at once; as many again may wait.
        timeout: seconds that a call may take.
    """

    def __init__(
        self, url: str, limit: int, threads: int, timeout: float
    ) -> None:
        """Keeps the settings; see the class for the arguments."""
        self._url = url
        self._limit = limit
        self._timeout = timeout
        self._most = 2 * threads
        self._calls = 0
        self._lock = threading.Lock()
        self._store: BehaviorStore | None = None
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="store")

    @property
    def exist(self) -> bool:
        """Whether there is a store."""
        return bool(self._url)

    async def read(
        self, user_id: int, limit: int | None = None
    ) -> History | None:
        """Reads a user's newest behaviours.

        Args:
            user_id: the user.
            limit: how many at most.

        Returns:
            None for an unknown user.

        Raises:
            StoreError: the store failed, holds garbage or is busy.
            asyncio.TimeoutError: it takes too long.
        """

        def work(store: BehaviorStore) -> History | None:
            found = store.read(user_id, limit or self._limit)
            return None if found is None else _history(user_id, found)

        return await self._call(work)

    async def append(
        self, user_id: int, item_ids: np.ndarray, category_ids: np.ndarray
    ) -> None:
        """Appends behaviours, oldest first.

        Raises:
            StoreError: the store failed or is busy.
            asyncio.TimeoutError: it takes too long; the events may have been
                stored.
        """
        await self._call(
            lambda store: store.append(user_id, item_ids, category_ids)
        )

    def close(self) -> None:
        """Closes the store once the calls in flight have ended."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._store is not None:
            self._store.close()

    async def _call(self, work: Callable[[BehaviorStore], _T]) -> _T:
        if self._calls >= self._most:
            raise StoreBusyError("the store has too many calls waiting")
        loop = asyncio.get_running_loop()
        self._calls += 1
        future = self._pool.submit(lambda: work(self._open()))
        # A thread cannot be stopped: it counts until it is back.
        future.add_done_callback(lambda _: _call_soon(loop, self._returned))
        return await asyncio.wait_for(
            asyncio.wrap_future(future), self._timeout
        )

    def _returned(self) -> None:
        self._calls -= 1

    def _open(self) -> BehaviorStore:
        with self._lock:
            if self._store is None:
                self._store = open_store(
                    self._url, limit=self._limit, timeout=self._timeout
                )
            return self._store


def _history(user_id: int, found: UserHistory) -> History:
    profile = np.asarray(found.profile, np.int64)
    items = np.asarray(found.item_ids, np.int64)
    categories = np.asarray(found.category_ids, np.int64)
    if (
        found.user_id != user_id
        or profile.shape != (PROFILE_SIZE,)
        or items.ndim != 1
        or items.shape != categories.shape
    ):
        raise StoreError(f"the store's answer is not of user {user_id}")
    rows = found.rows
    if rows is not None and (
        found.table_stamp is None or len(rows) != len(items)
    ):
        rows = None
    return History(
        profile=profile,
        item_ids=np.ascontiguousarray(items[::-1]),
        category_ids=np.ascontiguousarray(categories[::-1]),
        rows=(
            None if rows is None else np.ascontiguousarray(rows[::-1], np.int32)
        ),
        table_stamp=None if rows is None else found.table_stamp,
    )


def _call_soon(
    loop: asyncio.AbstractEventLoop, function: Callable[[], None]
) -> None:
    with contextlib.suppress(RuntimeError):  # The loop is closed.
        loop.call_soon_threadsafe(function)
