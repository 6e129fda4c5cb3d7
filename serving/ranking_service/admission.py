"""Admission control: concurrent requests and a short queue, both bounded."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator

from serving.wire.ranking_messages import DRAINING


class Overloaded(RuntimeError):
    """The service rejects the request because of load."""

    def __init__(self, reason: str, retry_after: float) -> None:
        texts = {
            "queue_full": "the ranking service has too many requests waiting",
            "queue_timeout": "the ranking service had no free place in time",
            "draining": DRAINING,
        }
        super().__init__(texts[reason])
        self.reason = reason
        self.retry_after = max(1, math.ceil(retry_after))


class Admission:
    """A semaphore with a bounded queue, which can be closed."""

    def __init__(self, max_concurrent: int, max_queue: int) -> None:
        self._places = asyncio.Semaphore(max_concurrent)
        self._max_concurrent = max_concurrent
        self._max_queue = max_queue
        self._closed = False
        self.inside = 0
        self.queued = 0

    @contextlib.asynccontextmanager
    async def place(self, seconds: float) -> AsyncIterator[None]:
        """Holds a place while the context is open; waits up to `seconds`."""
        if self._closed:
            raise Overloaded("draining", 1)
        await self._acquire(seconds)
        self.inside += 1
        try:
            if self._closed:
                raise Overloaded("draining", 1)
            yield
        finally:
            self.inside -= 1
            self._places.release()

    async def close(self, seconds: float) -> bool:
        """Rejects new requests and waits for the admitted ones."""
        self._closed = True
        try:
            await asyncio.wait_for(self._acquire_all(), seconds)
        except asyncio.TimeoutError:
            return False
        return True

    async def _acquire(self, seconds: float) -> None:
        if not self._places.locked():
            await self._places.acquire()
            return
        if self.queued >= self._max_queue:
            raise Overloaded("queue_full", 1)
        self.queued += 1
        try:
            await asyncio.wait_for(self._places.acquire(), max(0.0, seconds))
        except asyncio.TimeoutError:
            reason = "draining" if self._closed else "queue_timeout"
            raise Overloaded(reason, 1) from None
        finally:
            self.queued -= 1

    async def _acquire_all(self) -> None:
        for _ in range(self._max_concurrent):
            await self._places.acquire()
