"""Who gets in: requests at once, a short queue, and no more."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import math
from collections.abc import AsyncIterator

from serving.client.ranking_messages import DRAINING

__all__ = ["Admission", "Overloaded"]


class Overloaded(RuntimeError):
    """The service takes no more requests for now.

    Args:
        reason: `queue_full`, `queue_timeout` or `draining`.
        retry_after: seconds after which to try again.
    """

    def __init__(self, reason: str, retry_after: float) -> None:
        """Keeps the settings; see the class for the arguments."""
        texts = {
            "queue_full": "the ranking service has too many requests waiting",
            "queue_timeout": "the ranking service had no free place in time",
            "draining": DRAINING,
        }
        super().__init__(texts[reason])
        self.reason = reason
        self.retry_after = max(1, math.ceil(retry_after))


class Admission:
    """Lets a number of requests in at once, and a few more wait in order.

    Args:
        max_concurrent: inside at once.
        max_queue: waiting.

    Attributes:
        inside: requests inside.
    """

    def __init__(self, max_concurrent: int, max_queue: int) -> None:
        """Keeps the settings; see the class for the arguments."""
        self._max_concurrent = max_concurrent
        self._max_queue = max_queue
        self._waiting: collections.deque[asyncio.Future[None]] = (
            collections.deque()
        )
        self._closed = False
        self._empty = asyncio.Event()
        self._empty.set()
        self.inside = 0

    @property
    def queued(self) -> int:
        """Requests waiting."""
        return len(self._waiting)

    @contextlib.asynccontextmanager
    async def place(self, seconds: float) -> AsyncIterator[None]:
        """A place inside, for as long as the context is open.

        Args:
            seconds: how long to wait for it.

        Raises:
            Overloaded: there is none.
        """
        await self._enter(seconds)
        try:
            yield
        finally:
            self._leave()

    async def close(self, seconds: float) -> bool:
        """Lets nobody in any more, and waits for those inside.

        Args:
            seconds: how long to wait.

        Returns:
            Whether all have left.
        """
        self._closed = True
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_exception(Overloaded("draining", 1))
        try:
            await asyncio.wait_for(self._empty.wait(), seconds)
        except asyncio.TimeoutError:
            return False
        return True

    async def _enter(self, seconds: float) -> None:
        if self._closed:
            raise Overloaded("draining", 1)
        if self.inside < self._max_concurrent and not self._waiting:
            self._count(1)
            return
        if len(self._waiting) >= self._max_queue:
            raise Overloaded("queue_full", 1)
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await asyncio.wait({waiter}, timeout=max(0.0, seconds))
        except asyncio.CancelledError:
            if waiter.done() and waiter.exception() is None:
                self._leave()  # The place came together with the end.
            else:
                self._forget(waiter)
            raise
        if not waiter.done():
            self._forget(waiter)
            raise Overloaded("queue_timeout", 1)
        waiter.result()

    def _forget(self, waiter: asyncio.Future[None]) -> None:
        waiter.cancel()
        with contextlib.suppress(ValueError):
            self._waiting.remove(waiter)

    def _leave(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)  # The place changes hands.
                return
        self._count(-1)

    def _count(self, change: int) -> None:
        self.inside += change
        if self.inside:
            self._empty.clear()
        else:
            self._empty.set()
