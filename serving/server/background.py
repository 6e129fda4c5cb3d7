"""A model server in a thread of its own, for tests and validators."""

from __future__ import annotations

from contextlib import AbstractContextManager

from serving.background import in_background
from serving.server.app import ServerApp
from serving.server.config import ServerConfig

__all__ = ["running"]


def running(config: ServerConfig) -> AbstractContextManager[ServerApp]:
    """Serves from a background thread while the context is open.

    Args:
        config: what to serve and where; port 0 takes a free one.

    Returns:
        A context manager giving the started server.

    Raises:
        StartupError: a configuration or model cannot be served.
    """
    return in_background(ServerApp(config), "muse-server")
