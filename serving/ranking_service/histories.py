"""Reads histories from the behavior store in threads."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import numpy as np

from serving.client.ranking_types import AppendEvents
from serving.ranking_service.config import ServiceConfig
from serving.stores import (
    BehaviorStore,
    Layout,
    StoreError,
    StoreMovedError,
    StoreUnavailableError,
    UserHistory,
    open_store,
)

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")


class StoreBusyError(StoreError):
    """All threads are waiting for the store."""


NO_HISTORY = UserHistory(
    user_id=0,
    user=None,
    item_ids=np.zeros(0, np.int64),
    behaviors={},
    times=None,
    rows=None,
    table_stamp=None,
    end=0,
)
"""The history of an unknown user."""


class Histories:
    """Reads and appends without blocking the event loop.

    The store is opened by the first call, and again if that failed, so the
    service can start while its store is down. Appends have their own threads,
    because they may wait for another writer and must not delay reads.
    """

    def __init__(self, config: ServiceConfig) -> None:
        self._timeout = config.store_timeout_ms / 1e3
        self._store = _SharedStore(
            config.store, config.history_limit, self._timeout
        )
        threads = config.store_threads
        self._reads = _Workers("store-read", threads, 2 * threads)
        self._appends = _Workers("store-append", threads, 2 * threads)
        self._closed = False
        self.answered = 0.0

    @property
    def exist(self) -> bool:
        """Whether there is a store."""
        return bool(self._store.url)

    async def read(
        self, user_id: int, limit: int | None = None
    ) -> UserHistory | None:
        """Reads a user's newest behaviors; None for an unknown user."""
        found = await self._call(
            self._reads, lambda store: store.read(user_id, limit)
        )
        self.answered = time.monotonic()
        return found

    @property
    def layout(self) -> Layout | None:
        """The features that the store keeps; None before it is opened."""
        return self._store.layout

    async def append(self, events: AppendEvents, second: int) -> None:
        """Appends behaviors, oldest first, and sets user features if given.

        If the store keeps times, behaviors without times get the time
        `second`.
        """

        def append(store: BehaviorStore) -> None:
            times = events.times
            if times is None and store.layout.times:
                times = np.full(len(events.item_ids), second, np.int64)
            store.append(
                events.user_id,
                events.item_ids,
                events.behaviors,
                events.user or None,
                times,
            )

        await self._call(self._appends, append)

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
        self, workers: _Workers, work: Callable[[BehaviorStore], _T]
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
    """The store, which is opened on demand and shared by threads."""

    def __init__(self, url: str, limit: int, timeout: float) -> None:
        self.url = url
        self.limit = limit
        self._timeout = timeout
        self._lock = threading.Lock()
        self._store: BehaviorStore | None = None
        self._users = 0
        self._moved = False

    def call(self, work: Callable[[BehaviorStore], _T]) -> _T:
        """Returns the result of `work`, called with the store."""
        with self._lock:
            store = self._open()
            self._users += 1
        try:
            return work(store)
        except StoreMovedError:
            with self._lock:
                # Another thread may already have reopened the store.
                self._moved = self._moved or self._store is store
            raise
        finally:
            with self._lock:
                self._users -= 1

    @property
    def layout(self) -> Layout | None:
        store = self._store
        return None if store is None else store.layout

    def close(self) -> None:
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
            )
        return self._store


class _Workers:
    """A fixed number of threads with a bounded queue of calls.

    At exit, Python waits for the threads of `concurrent.futures`, even if a
    call never returns. It does not wait for these threads.
    """

    def __init__(self, name: str, threads: int, most: int) -> None:
        self._free = threading.Semaphore(most)
        self._calls: queue.SimpleQueue[
            tuple[Future[Any], Callable[[], Any]] | None
        ] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(
                target=self._work, name=f"{name}-{number}", daemon=True
            )
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, call: Callable[[], _T]) -> Future[_T]:
        if not self._free.acquire(blocking=False):
            raise queue.Full
        future: Future[_T] = Future()
        self._calls.put((future, call))
        return future

    def close(self, seconds: float) -> bool:
        """Ends the threads after the submitted calls are done."""
        for _ in self._threads:
            self._calls.put(None)
        ends = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, ends - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while (item := self._calls.get()) is not None:
            future, call = item
            wanted = future.set_running_or_notify_cancel()
            result = error = None
            try:
                result = call() if wanted else None
            except BaseException as raised:
                error = raised
            self._free.release()
            if wanted and error is not None:
                future.set_exception(error)
            elif wanted:
                future.set_result(result)
            # Otherwise they keep the result until the next call.
            del item, future, call, result, error
