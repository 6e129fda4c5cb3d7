"""A server in a thread of its own, for tests and validators."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator

from serving.server.app import ServerApp
from serving.server.config import ServerConfig

__all__ = ["running"]


@contextlib.contextmanager
def running(config: ServerConfig) -> Iterator[ServerApp]:
    """Serves from a background thread while the context is open.

    Args:
        config: what to serve and where; port 0 takes a free one.

    Yields:
        The started server.

    Raises:
        StartupError: a configuration or model cannot be served.
    """
    app = ServerApp(config)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(
        target=loop.run_forever, name="muse-server", daemon=True
    )
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
    """Ends what connections left behind, such as one that still sends."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
