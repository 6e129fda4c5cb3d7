"""A node of the Redis Cluster is lost while the ranking service answers."""

from __future__ import annotations

import collections
import time

import pytest
from redis.cluster import RedisCluster

from serving.client.ranking import RankingClient
from serving.ranking_service import ServiceConfig, running_service
from serving.stores import StoreUnavailableError, open_store
from tests.serving.faults.ranked_users import ask, fill
from tests.serving.stores.conftest import RedisProcesses, redis_program

USERS = range(10701, 10721)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    made = RedisProcesses(redis_program(), tmp_path_factory.mktemp("cluster"))
    fill(made.url, USERS)
    yield made
    made.stop()


def test_a_node_of_the_store_is_lost(model_server, cluster) -> None:
    """Every answer is right; after the failover, every one has its history."""
    with cluster.opened() as client, open_store(cluster.url) as store:
        lost = client.get_node_from_key(store._servers.keys(USERS[0])[0]).port
        client.wait(1, 5000, target_nodes=RedisCluster.PRIMARIES)
    config = ServiceConfig(
        store=cluster.url,
        targets=(model_server.grpc,),
        matching_model="",
        port=0,
        rest_port=-1,
        log_requests=False,
        poll_seconds=60,
        # A busy machine may be slow; a lost node refuses calls at once.
        deadline_ms=60_000,
        max_deadline_ms=60_000,
        store_timeout_ms=5_000,
        prefetch_timeout_ms=20_000,
        stage_budget_ms=dict.fromkeys(
            ("prefetch", "rank_cached", "rank_full", "rank_no_history"), 20_000
        ),
        # Without it, users of the other nodes would be refused as well.
        ready_without_store=True,
    )
    paths: dict[str, collections.Counter[str]] = {
        when: collections.Counter() for when in ("before", "while", "after")
    }
    with (
        running_service(config) as app,
        RankingClient(app.grpc_target) as client,
    ):

        def ask_all(when: str) -> set[str]:
            found = {
                ask(client, user, deadline_ms=50_000).path for user in USERS
            }
            paths[when].update(found)
            return found

        until = time.monotonic() + 60
        while ask_all("before") != {"cached"}:
            assert time.monotonic() < until, paths
        with open_store(cluster.url) as store:
            ends = {user: store.read(user).end for user in USERS}
            cluster.processes[lost].kill()
            cluster.processes[lost].wait()
            # Histories are in the user cache: cached answers, from before.
            assert ask_all("while") <= {"cached", "no_history"}
            until = time.monotonic() + 60
            while True:
                try:
                    assert ends == {u: store.read(u).end for u in USERS}
                    break
                except StoreUnavailableError:
                    assert time.monotonic() < until
                    ask_all("while")
        while ask_all("after") != {"cached"}:
            assert time.monotonic() < until
        page = app.service.metrics_page()
    errors = [
        float(line.rpartition(" ")[2])
        for line in page.split("\n")
        if line.startswith("muse_ranking_stage_seconds_count")
        and 'stage="store_read"' in line
        and ('"error"' in line or '"timeout"' in line)
    ]
    assert sum(errors) > 0
