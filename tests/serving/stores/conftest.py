"""Real stores: an LMDB folder, a redis-server and a Redis Cluster."""

from __future__ import annotations

import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator

import pytest
import redis
from redis.cluster import RedisCluster

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


PASSWORD = "open sesame"


class RedisProcesses:
    """A Redis Cluster with a password: three primaries, three replicas.

    `processes` has the server of each port.
    """

    def __init__(self, program: str, folder: pathlib.Path) -> None:
        self._program, self._folder = program, folder
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self._bus: dict[int, int] = {}
        ports = free_ports(12)
        for port, bus in zip(ports[:6], ports[6:], strict=True):
            self._bus[port] = bus
            self.start(port)
        nodes = [f"127.0.0.1:{port}" for port in self.processes]
        login = PASSWORD.replace(" ", "%20")
        self.url = f"redis+cluster://:{login}@{','.join(nodes[:3])}"
        wait_until(lambda: all(map(self.answers, self.processes)))
        subprocess.run(
            [
                "redis-cli", "-a", PASSWORD, "--cluster", "create", *nodes,
                "--cluster-replicas", "1", "--cluster-yes",
            ],
            check=True,
            capture_output=True,
        )  # fmt: skip
        wait_until(lambda: all(map(self.is_well, self.processes)))

    def start(self, port: int) -> None:
        folder = self._folder / str(port)
        folder.mkdir(exist_ok=True)
        self.processes[port] = subprocess.Popen(
            [
                self._program, "--port", str(port), "--bind", "127.0.0.1",
                "--cluster-enabled", "yes", "--cluster-node-timeout", "3000",
                "--cluster-require-full-coverage", "no",
                "--cluster-port", str(self._bus[port]),
                "--requirepass", PASSWORD, "--masterauth", PASSWORD,
                "--repl-diskless-sync-delay", "0",
                "--save", "", "--appendonly", "no", "--dir", str(folder),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def client(self, port: int) -> redis.Redis:
        return redis.Redis(port=port, password=PASSWORD)

    def answers(self, port: int) -> bool:
        try:
            with self.client(port) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def is_well(self, port: int) -> bool:
        """Whether it knows all slots, and follows its primary if a replica."""
        with self.client(port) as client:
            state = client.cluster("info")
            link = client.info("replication").get("master_link_status", "up")
        return state["cluster_state"] == "ok" and link == "up"

    def opened(self) -> RedisCluster:
        port = next(p for p in self.processes if self.answers(p))
        return RedisCluster("127.0.0.1", port, password=PASSWORD)

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()


def free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


def wait_until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.05)


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


@pytest.fixture(scope="session")
def redis_cluster(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RedisProcesses]:
    cluster = RedisProcesses(
        redis_program(), tmp_path_factory.mktemp("cluster")
    )
    yield cluster
    cluster.stop()


@pytest.fixture(params=["lmdb", "redis", "cluster"])
def every_store_url(
    request: pytest.FixtureRequest, tmp_path: pathlib.Path
) -> str:
    """For the modules whose tests also run over a Redis Cluster."""
    if request.param != "cluster":
        return empty_store(request, tmp_path)
    cluster = request.getfixturevalue("redis_cluster")
    with cluster.opened() as client:
        client.flushall(target_nodes=RedisCluster.PRIMARIES)
    return str(cluster.url)


@pytest.fixture(params=["lmdb", "redis"])
def store_url(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    return empty_store(request, tmp_path)


def empty_store(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
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
