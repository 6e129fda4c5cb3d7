"""A model server in a process of its own, which tests may kill."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

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
                    *(sys.executable, "-m", "serving.server"),
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
        for _ in range(600):
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
