"""Histories that other writers push out of the cache before they are used."""

from __future__ import annotations

import collections
import contextlib
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from serving.client import (
    MuseClient,
    MuseClientError,
    PrefetchRequest,
)
from serving.client.ranking import RankingClient
from serving.ranking_service import ServiceConfig, running_service
from tests.serving import toy_muse
from tests.serving.faults.ranked_users import ask, fill
from tests.serving.front import front_of

USERS = range(10201, 10204)
STRANGERS = np.arange(1, 8_000)


@pytest.fixture(scope="module")
def neighbors():
    """For each user the strangers that share the few places of a set."""
    cache = toy_muse.ToyMuse().cache

    def sets(users) -> np.ndarray:
        return cache._slots(np.asarray(users, np.int64)).numpy()[:, 0]

    theirs = sets(STRANGERS)
    return {
        user: [
            PrefetchRequest(int(neighbor), [7, 7])
            for neighbor in STRANGERS[theirs == own][: 2 * toy_muse.CACHE.ways]
        ]
        for user, own in zip(USERS, sets(USERS), strict=True)
    }


@pytest.fixture
def store(fault_redis) -> str:
    fill(fault_redis.url, USERS)
    return str(fault_redis.url)


def service(target: str, store: str):
    return running_service(
        ServiceConfig(
            store=store,
            targets=(target,),
            matching_model="",
            port=0,
            rest_port=-1,
            log_requests=False,
            deadline_ms=5000,
            stage_budget_ms={"prefetch": 3000},
        )
    )


def test_others_take_the_place_before_it_is_used(
    model_server, store, neighbors
):
    """The ranking with the whole history takes over."""
    user = USERS[0]

    def others_first() -> None:
        with MuseClient(model_server.grpc) as other:
            for neighbor in neighbors[user]:
                other.prefetch(neighbor)

    with (
        front_of(model_server.grpc) as (front, address),
        service(address, store) as app,
        RankingClient(app.grpc_target) as client,
    ):
        assert ask(client, user).path == "cached"
        front.faults["muse", "rank_cached"] = others_first
        answer = ask(client, user)
    outcomes = {stage.name: stage.outcome for stage in answer.stages}
    assert (outcomes["prefetch"], outcomes["rank_cached"]) == ("ok", "miss")
    assert answer.path == "full"


def test_services_and_others_fight_for_a_few_places(
    model_server, store, neighbors
):
    """Every answer is right, whether the history was still there or not."""
    paths: collections.Counter[str] = collections.Counter()
    over = threading.Event()

    def disturb() -> None:
        with MuseClient(model_server.grpc) as other:
            for crowd in itertools.cycle(neighbors.values()):
                if over.is_set():
                    return
                with contextlib.suppress(MuseClientError):  # Too many calls.
                    other.prefetch(crowd)

    def call(number: int, target: str) -> None:
        with RankingClient(target) as client:
            for step in range(400):
                answer = ask(client, USERS[(number + step) % len(USERS)])
                paths[answer.path] += 1
                if paths["cached"] >= 40 and paths["full"] >= 5:
                    return

    with contextlib.ExitStack() as stack:
        apps = [
            stack.enter_context(service(model_server.grpc, store))
            for _ in range(3)
        ]
        pool = stack.enter_context(ThreadPoolExecutor())
        disturbing = [pool.submit(disturb) for _ in range(2)]
        calls = [
            pool.submit(call, number, app.grpc_target)
            for number, app in enumerate(apps)
        ]
        try:
            for done in calls:
                done.result()
        finally:
            over.set()
        for done in disturbing:
            done.result()
    assert paths["cached"] >= 40
    assert paths["full"] + paths["no_history"] >= 5, paths
