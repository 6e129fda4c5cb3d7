"""A Redis Cluster of six processes that loses a node and moves users."""

from __future__ import annotations

import subprocess
import threading
import time

import numpy as np
import pytest
from redis.cluster import RedisCluster

from serving.stores import StoreUnavailableError, UserRecord, open_store
from serving.stores.redis_nodes import PASSWORD as VARIABLE
from serving.stores.redis_nodes import cluster_urls
from tests.serving.stores.conftest import PASSWORD, wait_until
from tests.serving.toy_store import LAYOUT, user

pytestmark = pytest.mark.once

USERS = range(1, 301)


def record(user_id: int) -> UserRecord:
    items = np.arange(1, 2 + user_id % 7)
    return UserRecord(user_id, user([1] * 5), items, {"category": items})


@pytest.fixture
def cluster(redis_cluster):
    with redis_cluster.opened() as client:
        client.flushall(target_nodes=RedisCluster.PRIMARIES)
    return redis_cluster


@pytest.fixture
def store(cluster):
    with open_store(cluster.url, LAYOUT, limit=1000, timeout=5) as opened:
        opened.replace_many([record(user_id) for user_id in USERS])
        yield opened


def check(store, users=USERS) -> None:
    for user_id in users:
        expected = record(user_id)
        found = store.read(user_id)
        np.testing.assert_array_equal(found.item_ids, expected.item_ids)
        assert found.user == expected.user


def test_users_are_on_all_primaries(store, cluster) -> None:
    check(store)
    with cluster.opened() as client:
        counts = [
            sum(
                1
                for _ in client.get_redis_connection(node).scan_iter(
                    "*:history"
                )
            )
            for node in client.get_primaries()
        ]
    assert len(counts) == 3 and sum(counts) == len(USERS)
    assert min(counts) > 50
    stats = store.stats()
    assert stats.users == len(USERS) == len(list(store.user_ids()))
    assert stats.events == sum(len(record(u).item_ids) for u in USERS)


def test_a_lost_primary_costs_its_users_until_its_replica_takes_over(
    store, cluster
) -> None:
    with cluster.opened() as client:
        ports = {
            user_id: client.get_node_from_key(
                store._servers.keys(user_id)[0]
            ).port
            for user_id in USERS
        }
        client.wait(1, 5000, target_nodes=RedisCluster.PRIMARIES)
    lost = ports[7]
    there = {user_id for user_id in USERS if ports[user_id] == lost}
    cluster.processes[lost].kill()
    cluster.processes[lost].wait()
    failed = set()
    for user_id in USERS:
        try:
            check(store, [user_id])
        except StoreUnavailableError:
            failed.add(user_id)
    assert failed and failed <= there
    until = time.monotonic() + 60
    while failed:
        assert time.monotonic() < until
        check(store, set(USERS) - there)
        try:
            check(store, failed)
            failed.clear()
        except StoreUnavailableError:
            time.sleep(0.1)
    check(store)
    store.append(7, 5)
    assert store.read(7).item_ids.tolist() == [1, 5]
    cluster.start(lost)
    wait_until(lambda: cluster.answers(lost) and cluster.is_well(lost))


def test_users_that_move_to_another_node_are_found_there(
    store, cluster
) -> None:
    with cluster.opened() as client:
        port = client.get_primaries()[0].port
        ids = [client.cluster_myid(node) for node in client.get_primaries()]
    stop, seen = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            for user_id in USERS:
                try:
                    check(store, [user_id])
                    seen.append(user_id)
                except StoreUnavailableError:
                    pass  # Its slot is being moved.

    reader = threading.Thread(target=read)
    reader.start()
    try:
        subprocess.run(
            [
                "redis-cli", "-a", PASSWORD, "--cluster", "reshard",
                f"127.0.0.1:{port}", "--cluster-from", ids[0].decode(),
                "--cluster-to", ids[1].decode(), "--cluster-slots", "300",
                "--cluster-yes",
            ],
            check=True,
            capture_output=True,
        )  # fmt: skip
    finally:
        stop.set()
        reader.join()
    assert seen
    check(store)
    for user_id in USERS:
        store.append(user_id, 9)
        assert store.read(user_id, 1).item_ids.tolist() == [9]
    events = sum(len(record(u).item_ids) + 1 for u in USERS)
    assert store.stats().events == events


def test_the_password_may_come_from_the_environment(
    cluster, monkeypatch
) -> None:
    url = cluster.url.replace(":open%20sesame@", "")
    monkeypatch.setenv(VARIABLE, PASSWORD)
    open_store(url, LAYOUT).close()
    monkeypatch.setenv(VARIABLE, "hunter2")
    with pytest.raises(StoreUnavailableError) as caught:
        open_store(url, LAYOUT)
    assert "hunter2" not in str(caught.value)


def test_nodes_of_a_url() -> None:
    assert cluster_urls("rediss+cluster://me:x@a:1,b:2/0?ssl_ca_certs=c") == [
        "rediss://me:x@a:1/0?ssl_ca_certs=c",
        "rediss://me:x@b:2/0?ssl_ca_certs=c",
    ]
    assert cluster_urls("redis+cluster://a,[::1]:7") == [
        "redis://a",
        "redis://[::1]:7",
    ]
