"""Real stores: an LMDB folder, and a redis-server of our own."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator

import pytest
import redis

from serving.stores import BehaviorStore, open_store
from tests.serving.toy_store import LAYOUT

OpenStore = Callable[..., BehaviorStore]


class RedisServer:
    """A redis-server on a socket in a folder of its own."""

    def __init__(self, program: str, folder: pathlib.Path) -> None:
        self.url = f"unix://{folder}/redis.sock"
        self.process = subprocess.Popen(
            [
                program, "--port", "0", "--unixsocket", f"{folder}/redis.sock",
                "--save", "", "--appendonly", "no", "--dir", str(folder),
                "--databases", "512",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for _ in range(200):
            try:
                with redis.Redis.from_url(self.url) as client:
                    client.ping()
                return
            except redis.ConnectionError:
                time.sleep(0.05)
        self.stop()
        raise RuntimeError("redis-server did not start")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def redis_program() -> str:
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        reason = "redis-server is not installed; run scripts/redis-server"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return program


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    # A socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="muse-redis-") as folder:
        server = RedisServer(redis_program(), pathlib.Path(folder))
        yield server
        server.stop()


@pytest.fixture(params=["lmdb", "redis"])
def store_url(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    if request.param == "lmdb":
        return f"lmdb:{tmp_path}/store"
    server = request.getfixturevalue("redis_server")
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
    return server.url


@pytest.fixture
def store(store_url: str) -> Iterator[BehaviorStore]:
    with open_store(store_url, LAYOUT, limit=1000, timeout=20) as opened:
        yield opened
