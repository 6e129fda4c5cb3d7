"""The ranking service as a process: ports, health and a drained end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pathlib
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager

from aiohttp import web

from serving.addresses import join_address
from serving.background import in_background
from serving.files import write_json
from serving.ranking_service.config import ServiceConfig
from serving.ranking_service.grpc_server import GrpcServer
from serving.ranking_service.rest_server import make_rest_app
from serving.ranking_service.service import RankingService
from serving.ranking_service.tls import read_ssl_config
from serving.tls import grpc_credentials, ssl_context

__all__ = ["ServiceApp", "run_until_signal", "running_service"]

_logger = logging.getLogger(__name__)
_HEALTH_S = 0.1


class ServiceApp:
    """One service with its ports.

    Attributes:
        config: the settings.
        service: what answers.
        grpc_port: port in use once started; None when off.
        rest_port: port in use once started; None when off.

    Raises:
        ValueError: the TLS configuration is broken.
    """

    def __init__(self, config: ServiceConfig) -> None:
        self.config = config
        self._tls = read_ssl_config(config.ssl_config_file)
        self._ssl = None if self._tls is None else ssl_context(self._tls)
        self.grpc_port: int | None = None
        self.rest_port: int | None = None
        self.service: RankingService
        self._grpc: GrpcServer | None = None
        self._runner: web.AppRunner | None = None
        self._teller: asyncio.Task[None] | None = None
        self._port_file: pathlib.Path | None = None

    @property
    def grpc_target(self) -> str:
        """`host:port` of gRPC."""
        return join_address(self.config.host, self.grpc_port)

    @property
    def rest_url(self) -> str:
        """Base URL of REST, without a slash at the end."""
        scheme = "https" if self._tls else "http"
        return f"{scheme}://{join_address(self.config.host, self.rest_port)}"

    async def start(self) -> None:
        """Takes the ports, then starts the service.

        Raises:
            OSError: a port is taken.
        """
        self.service = RankingService(self.config)
        try:
            if self.config.port >= 0:
                self._grpc = GrpcServer(self.service)
                self.grpc_port = self._grpc.bind(
                    self.config.host,
                    self.config.port,
                    None if self._tls is None else grpc_credentials(self._tls),
                )
            if self.config.rest_port >= 0:
                await self._start_rest()
            await self.service.start()
            if self._grpc is not None:
                await self._grpc.start()
                await self._grpc.tell_health(self.service.ready)
            self._teller = asyncio.create_task(self._tell_health())
            if self.config.port_file:
                self._write_port_file()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Says that it is not ready, answers what is in flight, and ends."""
        if self._teller is not None:
            self._teller.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._teller
        if self._grpc is not None:
            await self._grpc.tell_health(False)
        await self.service.close()
        if self._grpc is not None:
            await self._grpc.stop(1)
        if self._runner is not None:
            await self._runner.cleanup()
        if self._port_file is not None:
            self._port_file.unlink(missing_ok=True)

    async def _start_rest(self) -> None:
        self._runner = web.AppRunner(
            make_rest_app(self.service),
            access_log=None,
            handle_signals=False,
            handler_cancellation=True,
            shutdown_timeout=1,
            auto_decompress=False,  # A small body could become any size.
        )
        await self._runner.setup()
        site = web.TCPSite(
            self._runner,
            self.config.host,
            self.config.rest_port,
            ssl_context=self._ssl,
        )
        await site.start()
        self.rest_port = self._runner.addresses[0][1]

    async def _tell_health(self) -> None:
        ready = self.service.ready
        while True:
            await asyncio.sleep(_HEALTH_S)
            if self.service.ready != ready and self._grpc is not None:
                ready = self.service.ready
                await self._grpc.tell_health(ready)

    def _write_port_file(self) -> None:
        path = pathlib.Path(self.config.port_file).absolute()
        content = {
            "host": self.config.host,
            "port": self.grpc_port,
            "rest_port": self.rest_port,
            "pid": os.getpid(),
        }
        write_json(path, content)
        self._port_file = path


def run_until_signal(
    config: ServiceConfig,
    on_ready: Callable[[ServiceApp], None] | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT, then drains.

    Raises:
        ValueError: the TLS configuration is broken.
        OSError: a port is taken.
    """
    asyncio.run(_run(config, on_ready))


def running_service(
    config: ServiceConfig,
) -> AbstractContextManager[ServiceApp]:
    """Serves from a background thread while the context is open.

    Args:
        config: the settings; port 0 takes a free one.

    Returns:
        A context manager giving the started service.

    Raises:
        ValueError: the TLS configuration is broken.
        OSError: a port is taken.
    """
    return in_background(ServiceApp(config), "muse-service")


async def _run(
    config: ServiceConfig, on_ready: Callable[[ServiceApp], None] | None
) -> None:
    app = ServiceApp(config)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await app.start()
    if on_ready is not None:
        on_ready(app)
    await stopping.wait()
    _logger.info("Stopping: answering the requests in flight")
    await app.stop()
