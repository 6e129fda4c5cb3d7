"""Runs the calls of both protocols in bounded pools, with metrics."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import grpc

from serving.model_server.errors import ServingError
from serving.model_server.metrics import Metrics

_T = TypeVar("_T")


class Dispatcher:
    """Runs each call of a protocol in a thread, up to a limit."""

    def __init__(
        self,
        entrypoint: str,
        threads: int,
        metrics: Metrics,
        max_admitted: int,
    ) -> None:
        self._entrypoint = entrypoint
        self._metrics = metrics
        self._max_admitted = max_admitted
        self._admitted = 0
        self._drained: asyncio.Event | None = None
        self._pool = ThreadPoolExecutor(
            threads, thread_name_prefix=entrypoint.lower()
        )

    async def run(
        self,
        api: str,
        model_name: str,
        work: Callable[[int | None], _T],
        seconds: float | None,
    ) -> _T:
        """Runs `work` in a thread with the remaining ms, or None."""
        started = time.perf_counter()
        code = grpc.StatusCode.OK
        try:
            return await self._admit(work, seconds)
        except ServingError as error:
            code = error.code
            raise
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            raise
        except Exception:
            code = grpc.StatusCode.INTERNAL
            raise
        finally:
            micros = (time.perf_counter() - started) * 1e6
            self._metrics.request_count.labels(model_name, code.name).inc()
            if code is grpc.StatusCode.OK:
                self._metrics.request_latency.labels(
                    model_name, api, self._entrypoint
                ).observe(micros)

    async def _admit(
        self, work: Callable[[int | None], _T], seconds: float | None
    ) -> _T:
        if self._drained is not None:
            self.count_refused()
            raise ServingError(
                grpc.StatusCode.UNAVAILABLE, "The server is stopping"
            )
        if self._admitted >= self._max_admitted:
            self.count_refused()
            raise ServingError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "Server Threadpool Exhausted",
            )
        deadline = None if seconds is None else time.monotonic() + seconds

        def limited() -> _T:
            self._metrics.waiting.labels(self._entrypoint).dec()
            if deadline is None:
                return work(None)
            left = deadline - time.monotonic()
            if left <= 0:
                raise ServingError(
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                    "Timed out waiting for notification",
                )
            return work(max(1, int(left * 1000)))

        self._admitted += 1
        self._metrics.in_flight.labels(self._entrypoint).inc()
        self._metrics.waiting.labels(self._entrypoint).inc()
        loop = asyncio.get_running_loop()
        running = self._pool.submit(limited)
        try:
            return await asyncio.wrap_future(running)
        except asyncio.CancelledError:
            if running.cancel():  # It has not started.
                self._metrics.waiting.labels(self._entrypoint).dec()
            raise
        finally:
            if running.done():
                self._leave()
            else:  # The call continues in its thread.
                running.add_done_callback(
                    lambda _: _call_soon(loop, self._leave)
                )

    def count_refused(self) -> None:
        """Counts a call that was not admitted."""
        self._metrics.refused.labels(self._entrypoint).inc()

    def _leave(self) -> None:
        self._admitted -= 1
        self._metrics.in_flight.labels(self._entrypoint).dec()
        if self._drained is not None and not self._admitted:
            self._drained.set()

    async def drain(self, seconds: float) -> None:
        """Rejects new calls and waits for the admitted ones."""
        self._drained = asyncio.Event()
        if self._admitted:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._drained.wait(), seconds)

    def close(self) -> None:
        """Ends the threads without waiting for running calls."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _call_soon(
    loop: asyncio.AbstractEventLoop, function: Callable[[], None]
) -> None:
    with contextlib.suppress(RuntimeError):  # The loop is closed.
        loop.call_soon_threadsafe(function)
