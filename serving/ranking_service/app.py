"""The ranking service as a process: ports, health checks and draining."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager

import grpc
from aiohttp import web
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from serving.background import in_background
from serving.ranking_service.config import MAX_REQUEST_BYTES, ServiceConfig
from serving.ranking_service.grpc_server import add_service
from serving.ranking_service.rest_server import make_rest_app
from serving.ranking_service.service import RankingService
from serving.startup import (
    Ports,
    listen_grpc,
    listen_rest,
    make_grpc_server,
    read_tls,
    stop_signal,
)
from serving.wire.ranking_messages import SERVICE

_logger = logging.getLogger(__name__)
_HEALTH_S = 0.1


class ServiceApp(Ports):
    """The service and its ports, which are known after the start."""

    def __init__(self, config: ServiceConfig) -> None:
        self.config = config
        self._tls = read_tls(config.ssl_config_file)
        super().__init__(config.host, "https" if self._tls else "http")
        self.service: RankingService
        self._health = health.aio.HealthServicer()
        self._grpc: grpc.aio.Server | None = None
        self._runner: web.AppRunner | None = None
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Opens the ports, then starts the service."""
        config = self.config
        self.service = RankingService(config)
        try:
            if config.port >= 0:
                self._grpc = make_grpc_server(MAX_REQUEST_BYTES)
                add_service(self._grpc, self.service)
                health_pb2_grpc.add_HealthServicer_to_server(
                    self._health, self._grpc
                )
                self.grpc_port = listen_grpc(
                    self._grpc, config.host, config.port, self._tls
                )
            if config.rest_port >= 0:
                self._runner, self.rest_port = await listen_rest(
                    make_rest_app(self.service),
                    config.host,
                    config.rest_port,
                    "--rest-port",
                    self._tls,
                    shutdown_timeout=1,
                )
            await self.service.start()
            if self._grpc is not None:
                await self._grpc.start()
            await self._tell_health(self.service.ready)
            self._watch = asyncio.create_task(self._watch_health())
            self.write_port_file(config.port_file, "rest_port")
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Reports not ready, answers the requests in flight, and stops."""
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        await self._tell_health(False)
        await self.service.close()
        if self._grpc is not None:
            await self._grpc.stop(1)
        if self._runner is not None:
            await self._runner.cleanup()
        self.remove_port_file()

    async def _watch_health(self) -> None:
        ready = self.service.ready
        while True:
            await asyncio.sleep(_HEALTH_S)
            if self.service.ready != ready:
                ready = self.service.ready
                await self._tell_health(ready)

    async def _tell_health(self, ready: bool) -> None:
        state = health_pb2.HealthCheckResponse
        status = state.SERVING if ready else state.NOT_SERVING
        for name in ("", SERVICE):
            await self._health.set(name, status)


def run_until_signal(
    config: ServiceConfig,
    on_ready: Callable[[ServiceApp], None] | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT, then drains."""

    async def run() -> None:
        app = ServiceApp(config)
        stopping = stop_signal()
        await app.start()
        if on_ready is not None:
            on_ready(app)
        await stopping.wait()
        _logger.info("Stopping: answering the requests in flight")
        await app.stop()

    asyncio.run(run())


def running_service(
    config: ServiceConfig,
) -> AbstractContextManager[ServiceApp]:
    """Serves from a background thread while the context is open.

    Raises `StartupError` if the TLS configuration is invalid or a port is in
    use.
    """
    return in_background(ServiceApp(config), "muse-service")
