"""Embedded model server with the protocol of TensorFlow Serving.

It is used by the demo, tests, CI and the ServingValidator on platforms without
a package of TensorFlow Serving, which is used in production. Importing this
package is cheap; TensorFlow is imported when a server is created.

Example:
    >>> from serving.model_server import ServerConfig, running
    >>> config = ServerConfig(model_base_path="/models/muse", port=0)
    >>> with running(config) as server:  # doctest: +SKIP
    ...     server.grpc_target
    '127.0.0.1:41327'
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from serving.model_server.config import ServerConfig
from serving.model_server.errors import ServingError
from serving.startup import StartupError

if TYPE_CHECKING:
    from serving.model_server.app import ServerApp

__all__ = [
    "ServerConfig",
    "ServingError",
    "StartupError",
    "running",
    "serve",
]


def serve(config: ServerConfig) -> None:
    """Serves until SIGTERM or SIGINT, then drains.

    Raises `StartupError` if a configuration or a model is invalid.
    """
    from serving.model_server.app import serve_until_signal

    serve_until_signal(config)


def running(config: ServerConfig) -> AbstractContextManager[ServerApp]:
    """Serves from a background thread while the context is open.

    The context returns the started server, with `grpc_target`, `rest_url` and
    `manager`. Raises `StartupError` if a configuration or a model is invalid.
    """
    from serving.background import in_background
    from serving.model_server.app import ServerApp

    return in_background(ServerApp(config), "muse-server")
