"""Servers in processes of their own, which tests may kill."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import pytest

from serving.stores import open_store
from tests.serving.stores.conftest import RedisServer, redis_program
from tests.serving.toy_store import LAYOUT

HERE = pathlib.Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests; all of them need a model server."""
    for item in items:
        if HERE in pathlib.Path(item.path).parents:
            item.add_marker(pytest.mark.tf)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


class ModelServer:
    """The embedded server on ports that stay the same when it is restarted."""

    def __init__(self, base: pathlib.Path, folder: pathlib.Path) -> None:
        self.base = base
        self._folder = folder
        self._ports = free_port(), free_port()
        self.process: subprocess.Popen[bytes]
        self.start()

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self._ports[0]}"

    @property
    def rest(self) -> str:
        return f"http://127.0.0.1:{self._ports[1]}"

    def start(self) -> None:
        file = self._folder / "ports.json"
        file.unlink(missing_ok=True)
        with (self._folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "serving.model_server"),
                    f"--model_base_path={self.base}",
                    "--model_name=muse",
                    f"--port={self._ports[0]}",
                    f"--rest_api_port={self._ports[1]}",
                    f"--port_file={file}",
                    "--file_system_poll_wait_seconds=0.2",
                ],
                stdout=log,
                stderr=log,
                env={"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ},
            )
        for _ in range(1800):
            if file.exists():
                json.loads(file.read_text())
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise RuntimeError((self._folder / "log.txt").read_text()[-2000:])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="session")
def fault_server(
    muse_base: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ModelServer]:
    folder = tmp_path_factory.mktemp("faults")
    shutil.copytree(muse_base, folder / "muse")
    server = ModelServer(folder / "muse", folder)
    yield server
    server.kill()


@pytest.fixture
def model_server(fault_server: ModelServer) -> Iterator[ModelServer]:
    """The server, which must have outlived the test."""
    yield fault_server
    assert fault_server.process.poll() is None, "the server died"


class ServiceProcess:
    """The ranking service, as `muse service` runs it."""

    def __init__(self, folder: pathlib.Path, **settings: Any) -> None:
        self._log = folder / "service.log"
        ports = folder / "service.json"
        settings = {
            "matching_model": "",
            "port": 0,
            "rest_port": 0,
            "port_file": str(ports),
            "log_requests": False,
            **settings,
        }
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "serving.ranking_service",
                    json.dumps(settings),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for(lambda: ports.exists() or self.process.poll() is not None)
        if not ports.exists():
            raise RuntimeError(self._log.read_text()[-2000:])
        found = json.loads(ports.read_text())
        self.grpc = f"127.0.0.1:{found['port']}"
        self.rest = f"http://127.0.0.1:{found['rest_port']}"

    def log(self) -> list[dict[str, Any]]:
        lines = self._log.read_text().splitlines()
        # The core of gRPC writes lines of its own.
        return [json.loads(line) for line in lines if line.startswith("{")]

    def stop(self) -> None:
        """Ends it as an operator does; it must do so with code 0."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(60)
        finally:
            self.process.kill()
            self.process.wait()
        assert code == 0, self._log.read_text()[-2000:]
        surprises = [line for line in self.log() if "exception" in line]
        assert not surprises, surprises


def wait_for(condition: Any, seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


class RestartableRedis:
    """A redis-server on a socket that stays the same."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self.start()

    def start(self) -> None:
        self._server = RedisServer(redis_program(), self._folder)
        self.url = self._server.url

    def kill(self) -> None:
        self._server.stop()


@pytest.fixture(scope="session")
def fault_redis() -> Iterator[RestartableRedis]:
    # A socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="muse-redis-") as folder:
        server = RestartableRedis(pathlib.Path(folder))
        open_store(server.url, LAYOUT).close()
        yield server
        server.kill()


PLACES = 4


@pytest.fixture(scope="session")
def fault_service(
    fault_server: ModelServer,
    fault_redis: RestartableRedis,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ServiceProcess]:
    service = ServiceProcess(
        tmp_path_factory.mktemp("service"),
        store=fault_redis.url,
        targets=[fault_server.grpc],
        deadline_ms=5000,
        max_concurrent=PLACES,
        max_queue=PLACES,
        # A busy machine may be slow: nothing but a full queue is refused.
        max_queue_ms=2000,
        poll_seconds=0.5,
    )
    try:
        yield service
    finally:
        service.stop()


@pytest.fixture
def service(
    fault_service: ServiceProcess, model_server: ModelServer
) -> Iterator[ServiceProcess]:
    """The service, which must have outlived the test."""
    yield fault_service
    assert fault_service.process.poll() is None, "the service died"
