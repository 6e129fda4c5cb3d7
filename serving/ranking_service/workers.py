"""Threads for calls that block, which no stop has to wait for."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

__all__ = ["Workers"]

_T = TypeVar("_T")


class Workers:
    """A number of threads, and a bounded number of calls for them.

    Those of `concurrent.futures` are waited for when the process ends, even
    when a call in them never comes back. These are not.
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
        """Runs a call in one of the threads."""
        if not self._free.acquire(blocking=False):
            raise queue.Full
        future: Future[_T] = Future()
        self._calls.put((future, call))
        return future

    def close(self, seconds: float) -> bool:
        """Ends the threads once what was submitted is done."""
        for _ in self._threads:
            self._calls.put(None)
        ends = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, ends - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while (item := self._calls.get()) is not None:
            future, call = item
            if future.set_running_or_notify_cancel():
                try:
                    result = call()
                except BaseException as error:
                    self._free.release()
                    future.set_exception(error)
                else:
                    self._free.release()
                    future.set_result(result)
                    del result
            else:
                self._free.release()
            del item, future, call  # They would keep the answer.
