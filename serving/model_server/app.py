"""The server process: both protocols in one event loop, start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import Awaitable, Callable

import grpc
from aiohttp import web

from serving.addresses import bare_host
from serving.model_server.config import ServerConfig
from serving.model_server.config_files import model_settings, read_monitoring
from serving.model_server.dispatch import Dispatcher
from serving.model_server.errors import ServingError
from serving.model_server.grpc_services import add_services
from serving.model_server.metrics import Metrics
from serving.model_server.model_manager import ModelManager
from serving.model_server.rest_api import make_rest_app
from serving.startup import (
    Ports,
    StartupError,
    listen_grpc,
    listen_rest,
    make_grpc_server,
    read_tls,
    stop_signal,
)
from serving.wire.memory import keep_freed_memory

_logger = logging.getLogger(__name__)

_IDLE_SECONDS = 300.0
_LAST_SECONDS = 2.0  # Time to write finished answers.


class ServerApp(Ports):
    """One embedded server. Its ports are known after the start."""

    def __init__(self, config: ServerConfig) -> None:
        super().__init__(config.host)
        keep_freed_memory()
        self.config = config
        self._models = model_settings(config)
        self._monitoring = read_monitoring(config.monitoring_config_file)
        self._tls = read_tls(config.ssl_config_file)
        self.metrics = Metrics()
        self.manager = ModelManager(config, self.metrics)
        self._grpc: grpc.aio.Server | None = None
        self._runner: web.AppRunner | None = None
        self._dispatchers: list[Dispatcher] = []
        self._reloader: asyncio.Task[None] | None = None

    @property
    def model_names(self) -> list[str]:
        """Names of the configured models."""
        return [model.name for model in self._models]

    @property
    def base_paths(self) -> dict[str, str]:
        """Folders of the configured models, by name."""
        return {model.name: model.base_path for model in self._models}

    @property
    def metrics_path(self) -> str:
        """Path of the metrics page; empty if metrics are disabled."""
        return self._monitoring.path if self._monitoring.enabled else ""

    async def start(self) -> None:
        """Loads the models, then opens the ports."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(
            None,
            self.manager.start,
            self._models,
            self.config.file_system_poll_wait_seconds,
        )
        try:
            if self.config.port >= 0:
                await self._start_grpc()
            if self.config.rest_api_port >= 0:
                await self._start_rest()
            self.write_port_file(self.config.port_file, "rest_api_port")
        except BaseException:
            await self.stop()
            raise
        poll = self.config.model_config_file_poll_wait_seconds
        if self.config.model_config_file and poll > 0:
            self._reloader = asyncio.create_task(self._reload(poll))

    async def stop(self) -> None:
        """Rejects new calls, waits for those in flight, frees the models."""
        grace = self.config.drain_seconds
        ends = time.monotonic() + grace
        if self._reloader is not None:
            self._reloader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reloader
        # A gRPC server reports new calls as canceled while it stops. To make
        # clients try another server, they are rejected with another status
        # while admitted calls still run.
        await asyncio.gather(*(one.drain(grace) for one in self._dispatchers))
        stops = []
        if self._grpc is not None:
            stops.append(
                self._grpc.stop(
                    max(0.0, min(_LAST_SECONDS, ends - time.monotonic()))
                )
            )
        if self._runner is not None:
            stops.append(self._runner.cleanup())
        await asyncio.gather(*stops)
        await asyncio.get_running_loop().run_in_executor(
            None, self.manager.stop, grace
        )
        for dispatcher in self._dispatchers:
            dispatcher.close()
        self.remove_port_file()

    async def _start_grpc(self) -> None:
        # As in TensorFlow Serving, where one thread polls.
        threads = self.config.grpc_max_threads - 1
        dispatcher = Dispatcher(
            "GRPC", threads, self.metrics, max_admitted=threads
        )
        self._dispatchers.append(dispatcher)
        server = make_grpc_server(
            min(self.config.max_request_bytes, 2**31 - 1) or -1
        )
        add_services(server, self.manager, dispatcher)
        port = listen_grpc(
            server, self.config.host, self.config.port, self._tls
        )
        await server.start()
        self._grpc = server
        self.grpc_port = port

    async def _start_rest(self) -> None:
        threads = self.config.rest_api_num_threads
        dispatcher = Dispatcher(
            "REST",
            threads,
            self.metrics,
            max_admitted=threads + self.config.rest_api_max_waiting,
        )
        self._dispatchers.append(dispatcher)
        app = make_rest_app(
            self.config,
            self.manager,
            dispatcher,
            self.metrics,
            self._monitoring,
        )
        self._runner, self.rest_port = await listen_rest(
            app,
            bare_host(self.config.host),
            self.config.rest_api_port,
            "--rest_api_port",
            shutdown_timeout=min(_LAST_SECONDS, self.config.drain_seconds),
            # Limits connections without a complete request.
            keepalive_timeout=_IDLE_SECONDS,
        )

    async def _reload(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(seconds)
            try:
                models = model_settings(self.config)
                if models != self._models:
                    await loop.run_in_executor(None, self.manager.apply, models)
                    self._models = models
            except (StartupError, ServingError) as error:
                _logger.error("Model config not applied: %s", error)


def serve_until_signal(
    config: ServerConfig,
    on_ready: Callable[[ServerApp], None] | None = None,
    before_stop: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT, then drains.

    `on_ready` is called once the ports are open. `before_stop` is awaited after
    the signal, while calls are still accepted, to stop what depends on this
    server.
    """
    asyncio.run(_serve(config, on_ready, before_stop))


async def _serve(
    config: ServerConfig,
    on_ready: Callable[[ServerApp], None] | None,
    before_stop: Callable[[], Awaitable[None]] | None,
) -> None:
    app = ServerApp(config)
    # While garbage is collected, all calls wait. Objects of imported modules
    # are excluded to shorten this.
    gc.collect()
    gc.freeze()
    stopping = stop_signal()
    starting = asyncio.ensure_future(app.start())
    waiting = asyncio.ensure_future(stopping.wait())
    await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        app.manager.end_retries()
        try:
            await starting
        except StartupError as error:
            _logger.info("Stopped while loading: %s", error)
            return
    await starting
    if on_ready is not None and not stopping.is_set():
        on_ready(app)
    await waiting
    if before_stop is not None:
        await before_stop()
    _logger.info("Stopping: waiting for calls in flight")
    await app.stop()
