"""Runs a server in a thread, for tests and validators."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Protocol, TypeVar


class _App(Protocol):
    async def start(self) -> None:
        """Opens the ports."""

    async def stop(self) -> None:
        """Closes the ports."""


_A = TypeVar("_A", bound=_App)


@contextlib.contextmanager
def in_background(app: _A, name: str) -> Iterator[_A]:
    """Runs an app in its own event loop while the context is open."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name=name, daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(app.start(), loop).result()
        try:
            yield app
        finally:
            asyncio.run_coroutine_threadsafe(app.stop(), loop).result()
            asyncio.run_coroutine_threadsafe(_end_tasks(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


async def _end_tasks() -> None:
    """Cancels the tasks that connections left."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
