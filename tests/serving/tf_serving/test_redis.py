"""The arguments of the manifests' Redis, with real servers."""

from __future__ import annotations

import contextlib
import pathlib
import subprocess

import pytest
import redis

from serving.stores import StoreError, StoreUnavailableError, open_store
from serving.stores.redis_nodes import PASSWORD as VARIABLE
from tests.serving.stores.conftest import (
    free_ports,
    redis_program,
    wait_until,
)
from tests.serving.tf_serving.test_kubernetes import find
from tests.serving.toy_store import LAYOUT

pytestmark = pytest.mark.once

PASSWORD = "open sesame"


@contextlib.contextmanager
def started(name: str, folder: pathlib.Path, port: int, primary: int = 0):
    """The server of a StatefulSet, at other addresses."""
    pod = find("StatefulSet", name)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == ["redis-server"]
    here = {
        "$(REDISCLI_AUTH)": PASSWORD,
        "/data": str(folder),
        "muse-redis": "127.0.0.1",
        "6379": str(primary),
    }
    arguments = [here.get(word, word) for word in container["args"]]
    assert not any("$" in word for word in arguments)
    server = subprocess.Popen(
        [redis_program(), *arguments, "--port", str(port)],
        stdout=subprocess.DEVNULL,
    )
    try:
        yield server
    finally:
        server.kill()
        server.wait()


def test_the_replica_can_be_promoted(tmp_path, monkeypatch) -> None:
    """With the password alone; after the server is lost, nothing is."""
    first, second = free_ports(2)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    url = f"redis://127.0.0.1:{first}/0"
    with (
        started("muse-redis", tmp_path / "a", first) as server,
        started("muse-redis-replica", tmp_path / "b", second, first),
        redis.Redis(port=second, password=PASSWORD) as replica,
    ):

        def answers() -> bool:
            with contextlib.suppress(redis.RedisError):
                return replica.info("replication")["master_link_status"] == "up"
            return False

        wait_until(answers)
        with pytest.raises((StoreError, StoreUnavailableError), match="uth"):
            open_store(url, LAYOUT)
        monkeypatch.setenv(VARIABLE, PASSWORD)
        with open_store(url, LAYOUT) as store:
            store.append(7, [1, 2])
        with redis.Redis(port=first, password=PASSWORD) as client:
            assert client.wait(1, 10_000) == 1
            assert client.config_get("appendonly") == {"appendonly": "yes"}
        server.kill()
        server.wait()
        promoted = f"redis://127.0.0.1:{second}/0"
        with open_store(promoted) as store:
            assert store.read(7).item_ids.tolist() == [1, 2]
            with pytest.raises(StoreError, match="read only"):
                store.append(7, 3)
            replica.replicaof("NO", "ONE")
            store.append(7, 3)
            assert store.read(7).item_ids.tolist() == [1, 2, 3]
