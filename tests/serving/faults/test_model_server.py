"""A model server under kills, disconnects, overload and malformed calls."""

from __future__ import annotations

import asyncio
import http.client
import json
import pathlib
import shutil
import socket
import subprocess

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.client import (
    AsyncMuseClient,
    CachedRankRequest,
    MuseClient,
    OverloadedError,
    PrefetchRequest,
    RankRequest,
    Retry,
    UnavailableError,
    wire_grpc,
)
from tests.serving import toy_muse
from tests.serving.faults.conftest import wait_for

ONCE = Retry(attempts=1)
GARBAGE = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def make_request(user: int) -> RankRequest:
    """A request whose scores tell the user apart by the history."""
    items = np.arange(1, 2 + user % 50)
    return RankRequest(
        user, [1, 2, 40, 60], items, behaviors={"category": items % 7}
    )


def prefetch_request(request: RankRequest) -> PrefetchRequest:
    return PrefetchRequest(
        request.user_id,
        request.behavior_item_ids,
        behaviors=request.behaviors,
    )


def check(request: RankRequest, scores: np.ndarray) -> None:
    np.testing.assert_allclose(
        scores, toy_muse.expected_score(request), rtol=1e-5
    )


def check_alive(server) -> None:
    with MuseClient(server.grpc) as client:
        request = make_request(17)
        check(request, client.rank(request).click_probability)


def test_killed_in_mid_load_and_started_again(model_server):
    """Every answer is right; the cache of the dead process is gone.

    A caller that tries again long enough does not notice.
    """
    answers = {"before": 0, "failed": 0, "after": 0}
    state = "before"
    stop = False

    async def ask(client: AsyncMuseClient, caller: int) -> None:
        while not stop:
            request = make_request(caller)
            try:
                result = await client.rank(request, timeout=5)
            except UnavailableError:
                answers["failed"] += 1
                await asyncio.sleep(0.02)
            else:
                check(request, result.click_probability)
                answers[state] += 1

    async def run() -> None:
        nonlocal state, stop
        async with AsyncMuseClient(model_server.grpc, retry=ONCE) as client:
            kept = make_request(5)
            assert (await client.prefetch(prefetch_request(kept))).cached
            callers = [asyncio.create_task(ask(client, n)) for n in range(6)]
            while answers["before"] < 50:
                await asyncio.sleep(0.01)
            model_server.kill()
            while not answers["failed"]:
                await asyncio.sleep(0.01)
            patient = AsyncMuseClient(
                model_server.grpc,
                retry=Retry(attempts=1000, first=0.1, longest=0.3),
            )
            request = make_request(9)
            retried = asyncio.create_task(patient.rank(request, timeout=60))
            state = "after"
            await asyncio.to_thread(model_server.start)
            check(request, (await retried).click_probability)
            await patient.close()
            while answers["after"] < 50:
                await asyncio.sleep(0.01)
            stop = True
            await asyncio.gather(*callers)
            lost = await client.rank_cached(CachedRankRequest(5, [1, 2]))
            assert not lost.cache_hit
            assert lost.click_probability.tolist() == [0, 0]

    asyncio.run(asyncio.wait_for(run(), 120))


def cut_in_half(whole: pathlib.Path, copy: pathlib.Path) -> None:
    """Written under another name, as it should be, but not to its end."""
    temporary = copy.with_name("writing")
    shutil.copytree(whole, temporary)
    file = temporary / "saved_model.pb"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    temporary.rename(copy)


def without_space(whole: pathlib.Path, copy: pathlib.Path) -> None:
    """Copied in place, until the disk is full: no file passes 16 KiB."""
    copied = subprocess.run(
        ["bash", "-c", f"ulimit -f 16; cp -r '{whole}' '{copy}'"],
        capture_output=True,
    )
    assert copied.returncode
    assert (copy / "saved_model.pb").stat().st_size == 16 * 1024


@pytest.mark.parametrize("copied", [cut_in_half, without_space])
def test_a_broken_new_version_does_not_replace_the_old_one(
    model_server, copied
):
    """It is given up, and the old one goes on."""
    broken = model_server.base / "2"
    copied(model_server.base / "1", broken)
    with MuseClient(model_server.grpc) as client:

        def states():
            return {s.version: s for s in client.status()}

        wait_for(lambda: 2 in states() and states()[2].state == "END")
        assert states()[2].code != "OK"
        assert states()[1].state == "AVAILABLE"
        check_alive(model_server)
        shutil.rmtree(broken)
        wait_for(lambda: 2 not in states())


def test_callers_that_go_away(model_server):
    """By gRPC in mid-call, by HTTP in mid-request."""

    async def abandon() -> None:
        async with AsyncMuseClient(model_server.grpc) as client:
            calls = [
                asyncio.create_task(client.rank(make_request(n)))
                for n in range(60)
            ]
            await asyncio.sleep(0.01)
            for call in calls[::2]:
                call.cancel()
            results = await asyncio.gather(*calls, return_exceptions=True)
            answered = 0
            for number in range(1, 60, 2):
                result = results[number]
                # The server takes only so many calls at once.
                if not isinstance(result, OverloadedError):
                    check(make_request(number), result.click_probability)
                    answered += 1
            assert answered

    asyncio.run(abandon())
    host, _, port = model_server.rest.removeprefix("http://").partition(":")
    for sent in (
        b"",
        b"POST /v1/models/muse:pre",
        b"POST /v1/models/muse:predict HTTP/1.1\r\nHost: x\r\n"
        b'Content-Length: 100000\r\n\r\n{"inputs": {"item_ids": [1',
    ):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(sent)
    check_alive(model_server)


@GARBAGE
@given(st.binary(max_size=300))
def test_garbage_by_grpc(model_server, data):
    request = make_request(4)
    whole = wire_grpc.predict_request(
        wire_grpc.Target("muse"),
        "rank",
        {
            "user_id": np.array([4]),
            **{f"user_{name}": np.array([0]) for name in toy_muse.USER},
            "behavior_item_ids": request.behavior_item_ids[None],
            "behavior_category": request.behaviors["category"][None],
            "candidate_item_ids": request.candidate_item_ids[None],
        },
    )
    place = len(data) % len(whole)
    with grpc.insecure_channel(model_server.grpc) as channel:
        call = channel.unary_unary(wire_grpc.PREDICT)
        for sent in (data, whole[:place] + data + whole[place:]):
            try:
                call(sent, timeout=20)
            except grpc.RpcError as error:
                assert error.code() not in (
                    grpc.StatusCode.UNAVAILABLE,
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                )
        check_alive(model_server)


@GARBAGE
@given(
    st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(
                    st.sampled_from(["inputs", "item_ids", "x"]),
                    inner,
                    max_size=3,
                )
            ),
            max_leaves=10,
        ).map(lambda value: {"signature_name": "embed", "inputs": value}),
    )
)
def test_garbage_by_rest(model_server, body):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    host = model_server.rest.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=20)
    connection.request("POST", "/v1/models/muse:predict", data)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    assert answer.status in (200, 400), text
    assert answer.status == 200 or "error" in json.loads(text)


def test_more_users_than_the_cache_holds(model_server):
    """Users in it get the right scores, the others a miss."""
    users = toy_muse.CACHE.users * 2
    requests = [make_request(user) for user in range(1, users + 1)]
    with MuseClient(model_server.grpc) as client:
        kept = client.prefetch([prefetch_request(r) for r in requests])
        assert sum(result.cached for result in kept) >= users // 2
        found = client.rank_cached(
            [
                CachedRankRequest(r.user_id, r.candidate_item_ids)
                for r in requests
            ]
        )
        for request, result in zip(requests, found, strict=True):
            if result.cache_hit:
                check(request, result.click_probability)
            else:
                assert not result.click_probability.any()
        hits = sum(result.cache_hit for result in found)
        stats = client.user_cache([1])
        assert users // 4 <= hits <= stats.capacity < users
        assert hits == stats.occupied
