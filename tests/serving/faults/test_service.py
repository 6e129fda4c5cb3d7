"""The ranking service while its store fails it, and under too much load."""

from __future__ import annotations

import asyncio
import collections
import os
import pathlib
import signal
import tempfile

import pytest
import redis

from serving.client import OverloadedError
from serving.client.ranking import (
    AsyncRankingClient,
    RankingClient,
    RankingRequest,
)
from serving.ranking_service import ServiceConfig, running_service
from tests.serving.faults.ranked_users import (
    CANDIDATES,
    NEVER_ASKED,
    USERS,
    ask,
    check,
    fill,
)
from tests.serving.stores.conftest import RedisServer, redis_program


@pytest.fixture(scope="module")
def redis_server():
    with tempfile.TemporaryDirectory(prefix="muse-redis-") as folder:
        server = RedisServer(redis_program(), pathlib.Path(folder))
        yield server
        server.stop()


@pytest.fixture
def full_store(redis_server):
    fill(redis_server.url)
    yield redis_server
    if redis_server.process.poll() is None:
        with redis.Redis.from_url(redis_server.url) as client:
            client.flushall()


def service(server, store, **changes):
    return running_service(
        ServiceConfig(
            **{
                "store": store.url,
                "targets": (server.grpc,),
                "matching_model": "",
                "port": 0,
                "rest_port": -1,
                "log_requests": False,
                "deadline_ms": 5000,
                **changes,
            }
        )
    )


def test_a_slow_store_costs_the_history_not_the_answer(
    model_server, full_store
):
    """The server of the store is stopped in its tracks, then goes on."""
    process = full_store.process.pid
    changes = {"store_timeout_ms": 500, "deadline_ms": 2000}
    with service(model_server, full_store, **changes) as app:
        with RankingClient(app.grpc_target) as client:
            assert ask(client, 10101).path in ("cached", "full")
            os.kill(process, signal.SIGSTOP)
            try:
                assert ask(client, 10102).path == "no_history"
            finally:
                os.kill(process, signal.SIGCONT)
            paths = {ask(client, 10103).path for _ in range(5)}
            assert paths & {"cached", "full"}


def test_garbage_in_the_store_is_no_history(model_server, full_store):
    with redis.Redis.from_url(full_store.url) as client:
        (key,) = [k for k in client.keys("muse:*10104*:history")]
        value = bytearray(client.get(key))
        value[len(value) // 2 :] = b"garbage"
        client.set(key, bytes(value))
    with service(model_server, full_store) as app:
        with RankingClient(app.grpc_target) as client:
            answer = ask(client, 10104)
            assert answer.path == "no_history"
            outcomes = {s.name: s.outcome for s in answer.stages}
            assert outcomes["store_read"] == "error"
            assert ask(client, 10105).path in ("cached", "full")


def test_deadlines_down_to_the_impossible(model_server, full_store):
    """Whatever the time, there is an answer, and what it says is right."""
    paths = collections.Counter()
    with service(model_server, full_store) as app:
        with RankingClient(app.grpc_target) as client:
            for deadline in (0.001, 1, 5, 10, 20, 50, 2000):
                for user in (10106, 10107, 10108):
                    answer = ask(client, user, deadline_ms=deadline)
                    paths[answer.path] += 1
                    if deadline == 0.001:
                        assert answer.path == "unranked"
                    if deadline == 2000:
                        assert answer.path in ("cached", "full")
    assert paths["unranked"] >= 3


def test_ten_times_too_much_is_shed(model_server, full_store):
    """Forty callers on two places and two seats to wait."""
    counts = collections.Counter()

    async def caller(client, number: int) -> None:
        for step in range(6):
            user = USERS[(number + step) % (len(USERS) - len(NEVER_ASKED))]
            try:
                answer = await client.rank(RankingRequest(user, CANDIDATES))
            except OverloadedError:
                counts["shed"] += 1
                await asyncio.sleep(0.01)
            else:
                check(answer, user)
                counts[answer.path] += 1

    async def flood(target: str) -> None:
        async with AsyncRankingClient(target) as client:
            await asyncio.gather(*[caller(client, n) for n in range(40)])

    limits = {"max_concurrent": 2, "max_queue": 2}
    with service(model_server, full_store, **limits) as app:
        asyncio.run(flood(app.grpc_target))
        with RankingClient(app.grpc_target) as client:
            assert ask(client, 10109).path in ("cached", "full")
    assert sum(counts.values()) == 240
    assert counts["shed"] > 0
    assert sum(counts.values()) - counts["shed"] > 0


def test_the_store_goes_down(model_server, full_store):
    """The last test of the store: it is killed."""
    with service(model_server, full_store) as app:
        with RankingClient(app.grpc_target) as client:
            assert ask(client, 10110).path in ("cached", "full")
            assert ask(client, 10110).path == "cached"
            full_store.process.kill()
            full_store.process.wait()
            for user in NEVER_ASKED:
                assert ask(client, user).path == "no_history"
            # A user who was prefetched may still be ranked from the cache.
            assert ask(client, 10110).path in ("cached", "no_history")
