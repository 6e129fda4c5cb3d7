"""The ranking service as a process, while all around it comes and goes."""

from __future__ import annotations

import asyncio
import collections
import http.client
import json
import re
import socket
import urllib.error
import urllib.request

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.client import OverloadedError, UnavailableError
from serving.client.ranking import (
    AsyncRankingClient,
    RankingClient,
    RankingRequest,
    read_rank,
)
from serving.wire import ranking_messages as wire
from tests.serving.faults.conftest import PLACES, wait_for
from tests.serving.faults.ranked_users import (
    CANDIDATES,
    ask,
    check,
    fill,
)

ASKED = range(10501, 10519)
NEVER_ASKED = range(10519, 10521)
USERS = [*ASKED, *NEVER_ASKED]


@pytest.fixture(autouse=True)
def full_store(fault_redis):
    fill(fault_redis.url, USERS)


def metric(service, name: str) -> float:
    with urllib.request.urlopen(service.rest + "/metrics", timeout=20) as page:
        text = page.read().decode()
    found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
    return sum(map(float, found))


def is_ready(service) -> bool:
    try:
        with urllib.request.urlopen(service.rest + "/readyz", timeout=20):
            return True
    except urllib.error.HTTPError as error:
        assert error.code == 503
        return False


def is_healthy(service) -> bool:
    """What gRPC says, which is told of changes a little later."""
    with grpc.insecure_channel(service.grpc) as channel:
        state = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=20
        )
    return bool(state.status == health_pb2.HealthCheckResponse.SERVING)


class Load:
    """Callers that rank all the time and check what they get."""

    def __init__(self, service, callers: int) -> None:
        self.paths: collections.Counter[str] = collections.Counter()
        self._service = service
        self._callers = callers

    async def __aenter__(self) -> Load:
        self._client = AsyncRankingClient(self._service.grpc)
        self._tasks = [
            asyncio.create_task(self._call(number))
            for number in range(self._callers)
        ]
        return self

    async def __aexit__(self, *_) -> None:
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(
            *self._tasks, return_exceptions=True
        ):
            assert isinstance(result, asyncio.CancelledError), result
        await self._client.close()

    async def seen(self, path: str, count: int) -> None:
        """Waits for as many more answers by a path."""
        wanted = self.paths[path] + count
        while self.paths[path] < wanted:
            for task in self._tasks:
                if task.done():
                    task.result()  # It failed: nothing may fail.
            await asyncio.sleep(0.01)

    async def _call(self, number: int) -> None:
        while True:
            user = ASKED[number % len(ASKED)]
            answer = await self._client.rank(
                RankingRequest(user, CANDIDATES, deadline_ms=3000)
            )
            check(answer, user)
            self.paths[answer.path] += 1
            number += 1
            if answer.path == "unranked":
                await asyncio.sleep(0.02)


def test_the_model_server_is_killed_and_started_again(service, model_server):
    """Without one candidates come unranked; no call fails."""

    async def run() -> None:
        async with Load(service, PLACES) as load:
            await load.seen("cached", 30)
            model_server.kill()
            await load.seen("unranked", 20)
            await asyncio.to_thread(wait_for, lambda: not is_ready(service))
            await asyncio.to_thread(model_server.start)
            await load.seen("cached", 30)
            await asyncio.to_thread(wait_for, lambda: is_ready(service))

    asyncio.run(asyncio.wait_for(run(), 120))


def test_the_store_is_killed_and_started_again(service, fault_redis):
    """Histories are those of the cache, or none; events are refused."""

    async def run() -> None:
        async with Load(service, PLACES) as load:
            await load.seen("cached", 30)
            fault_redis.kill()
            # All of them may still be in the cache.
            before = sum(load.paths.values())
            while sum(load.paths.values()) < before + 30:
                await asyncio.sleep(0.01)
            async with AsyncRankingClient(service.grpc) as client:
                with pytest.raises(UnavailableError, match="behavior store"):
                    await client.append_events(USERS[0], [1])
                unknown = await client.rank(
                    RankingRequest(NEVER_ASKED[0], CANDIDATES)
                )
                check(unknown, NEVER_ASKED[0])
                assert unknown.path == "no_history"
                await asyncio.to_thread(wait_for, lambda: not is_ready(service))
                fault_redis.start()
                fill(fault_redis.url, USERS)
                again = await client.rank(
                    RankingRequest(NEVER_ASKED[1], CANDIDATES)
                )
                check(again, NEVER_ASKED[1])
                assert again.path in ("cached", "full")
            await load.seen("cached", 30)
            await asyncio.to_thread(wait_for, lambda: is_healthy(service))

    asyncio.run(asyncio.wait_for(run(), 120))


def test_ten_times_too_much(service):
    """What is let in is right and in time; the rest is told to come later."""
    callers = 10 * 2 * PLACES
    counts: collections.Counter[str] = collections.Counter()
    late = metric(service, "muse_ranking_late_total")
    shed = metric(service, "muse_ranking_shed_total")

    async def caller(channel, number: int) -> None:
        call = channel.unary_unary(
            wire.RANK,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=wire.RankResponse.FromString,
        )
        for step in range(4):
            user = ASKED[(number + step) % len(ASKED)]
            message = wire.RankRequest(
                user_id=user, candidate_item_ids=CANDIDATES, deadline_ms=5000
            )
            try:
                answer = await call(message, timeout=6)
            except grpc.aio.AioRpcError as error:
                assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
                told = dict(error.trailing_metadata())
                assert int(told["retry-after"]) >= 1
                counts["shed"] += 1
            else:
                check(read_rank(answer), user)
                assert answer.total_ms <= 5000
                counts[answer.path] += 1

    def by_rest(number: int) -> None:
        host = service.rest.removeprefix("http://")
        connection = http.client.HTTPConnection(host, timeout=20)
        body = {"user_id": ASKED[number], "candidate_item_ids": CANDIDATES}
        connection.request("POST", "/v1/rank", json.dumps(body))
        answer = connection.getresponse()
        found = json.loads(answer.read())
        connection.close()
        if answer.status == 503:
            assert int(answer.headers["Retry-After"]) >= 1
            assert "too many" in found["error"] or "place" in found["error"]
            counts["shed"] += 1
        else:
            assert answer.status == 200, found
            counts[found["path"]] += 1

    async def healthy(channel) -> None:
        stub = health_pb2_grpc.HealthStub(channel)
        for _ in range(5):
            state = await stub.Check(
                health_pb2.HealthCheckRequest(), timeout=20
            )
            assert state.status == health_pb2.HealthCheckResponse.SERVING
            assert await asyncio.to_thread(is_ready, service)
            await asyncio.sleep(0.02)

    async def flood() -> None:
        async with grpc.aio.insecure_channel(service.grpc) as channel:
            await asyncio.gather(
                healthy(channel),
                *(caller(channel, number) for number in range(callers)),
                *(asyncio.to_thread(by_rest, n) for n in range(len(ASKED))),
            )

    asyncio.run(asyncio.wait_for(flood(), 120))
    assert sum(counts.values()) == 4 * callers + len(ASKED)
    assert counts["shed"] > 0
    assert sum(counts.values()) - counts["shed"] >= PLACES
    assert metric(service, "muse_ranking_shed_total") - shed == counts["shed"]
    assert metric(service, "muse_ranking_late_total") == late
    with RankingClient(service.grpc) as client:
        assert ask(client, ASKED[0]).path in ("cached", "full")


def test_callers_that_go_away(service):
    """By gRPC in mid-call, by HTTP in mid-request; no place stays taken."""

    async def abandon() -> None:
        async with AsyncRankingClient(service.grpc) as client:
            calls = [
                asyncio.create_task(
                    client.rank(RankingRequest(user, CANDIDATES))
                )
                for user in ASKED[: 2 * PLACES]
            ]
            await asyncio.sleep(0.005)
            for call in calls[::2]:
                call.cancel()
            results = await asyncio.gather(*calls, return_exceptions=True)
            for user, result in list(zip(ASKED, results, strict=False))[1::2]:
                if not isinstance(result, OverloadedError):
                    check(result, user)

    asyncio.run(abandon())
    host, _, port = service.rest.removeprefix("http://").partition(":")
    for sent in (
        b"",
        b"POST /v1/ra",
        b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n{",
        b"POST /v1/rank HTTP/1.1\r\nHost: x\r\nContent-Length: 17\r\n\r\n"
        b'{"user_id":10101}',
    ):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(sent)
    wait_for(lambda: not metric(service, "muse_ranking_in_flight"))
    wait_for(lambda: not metric(service, "muse_ranking_queued"))
    with RankingClient(service.grpc) as client:
        assert ask(client, ASKED[0]).path in ("cached", "full")
