"""Whatever is slow or down, there is an answer, and it says what it is."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.client import (
    InvalidArgumentError,
    OverloadedError,
    RankRequest,
)
from serving.client.ranking import RankingClient, RankingRequest
from serving.ranking_service import ServiceConfig, running_service
from serving.ranking_service import service as service_module
from serving.ranking_service.targets import by_user
from serving.startup import StartupError
from tests.serving import toy_muse
from tests.serving.front import front_of
from tests.serving.ranking_service.conftest import BUDGETS, settings


@contextlib.contextmanager
def silent_server():
    """Takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def rank(app, request: RankRequest, **changes):
    with RankingClient(app.grpc_target) as client:
        return client.rank(
            RankingRequest(
                request.user_id, request.candidate_item_ids, **changes
            )
        )


def outcomes(answer) -> dict[str, str]:
    return {stage.name: stage.outcome for stage in answer.stages}


def newest(request: RankRequest, count: int) -> RankRequest:
    start = len(request.behavior_item_ids) - count
    return RankRequest(
        request.user_id,
        request.candidate_item_ids,
        request.behavior_item_ids[start:],
        request.user if count else {},
        {"category": request.behaviors["category"][start:]},
    )


def test_failed_prefetch_ranks_with_the_full_history(site) -> None:
    request = site.request(10)
    with front_of(site.model_server) as (front, address):
        front.faults["muse", "prefetch"] = grpc.StatusCode.INTERNAL
        config = settings(site, targets=(address,))
        with running_service(ServiceConfig(**config)) as app:
            answer = rank(app, request)
    assert answer.path == "full"
    assert outcomes(answer)["prefetch"] == "error"
    np.testing.assert_allclose(
        answer.click_probability, toy_muse.expected_score(request), atol=1e-5
    )


def test_full_history_that_takes_too_long_is_shortened(site) -> None:
    request = site.request(10)
    release = threading.Event()
    ranked: list[int] = []

    def first_hangs() -> None:
        ranked.append(1)
        if len(ranked) == 1:
            release.wait(30)

    with front_of(site.model_server) as (front, address):
        for call in ("prefetch", "rank_cached"):
            front.faults["muse", call] = grpc.StatusCode.INTERNAL
        budgets = {**BUDGETS, "rank_full": 300, "rank_shortened": 3000}
        config = settings(
            site,
            targets=(address,),
            shortened_length=4,
            stage_budget_ms=budgets,
        )
        with running_service(ServiceConfig(**config)) as app:
            front.faults["muse", "rank"] = first_hangs
            answer = rank(app, request)
        release.set()
    assert answer.path == "shortened"
    assert answer.history_length == 4
    assert outcomes(answer)["rank_full"] == "timeout"
    np.testing.assert_allclose(
        answer.click_probability,
        toy_muse.expected_score(newest(request, 4)),
        atol=1e-5,
    )


def test_store_that_is_down(site) -> None:
    request = site.request(10)
    with running_service(ServiceConfig(**settings(site))) as app:
        before = rank(app, request)
    down = settings(site, store=f"redis://{closed_port()}/0")
    with running_service(ServiceConfig(**down)) as app:
        cached = rank(app, request)
        stranger = RankRequest(77, [3, 4])
        uncached = rank(app, stranger)
    # What an earlier request left in the model's cache still serves.
    assert (cached.path, cached.generation) == ("cached", before.generation)
    np.testing.assert_array_equal(
        cached.click_probability, before.click_probability
    )
    assert uncached.path == "no_history"
    assert outcomes(uncached)["store_read"] == "error"
    assert outcomes(uncached)["rank_cached"] == "miss"
    np.testing.assert_allclose(
        uncached.click_probability, toy_muse.expected_score(stranger), atol=1e-5
    )


def test_no_model_server_leaves_candidates_unranked(site) -> None:
    request = site.request()
    config = settings(site, targets=(closed_port(),))
    with running_service(ServiceConfig(**config)) as app:
        answer = rank(app, request, deadline_ms=400)
        with RankingClient(app.grpc_target) as client:
            nothing = client.rank(RankingRequest(1, deadline_ms=400))
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(app.rest_url + "/readyz", timeout=5)
    assert error.value.code == 503
    assert answer.path == "unranked"
    assert len(answer.click_probability) == 0
    np.testing.assert_array_equal(
        answer.candidate_item_ids, request.candidate_item_ids
    )
    assert (nothing.path, len(nothing.candidate_item_ids)) == ("unranked", 0)


@pytest.fixture
def short_polls(monkeypatch) -> None:
    """A silent server is waited for at the start; that proves nothing here."""
    monkeypatch.setattr(service_module, "_POLL_TIMEOUT_S", 0.1)


def test_silent_model_server_does_not_hold_the_answer(
    site, short_polls
) -> None:
    # The client gives up a second after the deadline.
    with silent_server() as silent:
        both = (silent, site.model_server)
        request = next(
            r for r in site.requests if by_user(r.user_id, both)[0] == silent
        )
        with running_service(
            ServiceConfig(**settings(site, targets=(silent,)))
        ) as app:
            alone = rank(app, request, deadline_ms=300)
        with running_service(
            ServiceConfig(**settings(site, targets=both))
        ) as app:
            for target in app.service._parts.targets.all:
                target.answered()  # Not known to be down.
            moved = rank(app, request, deadline_ms=1000)
    assert alone.path == "unranked"
    # The paths before it kept its budget back, and it asks the other server.
    assert moved.path in ("full", "no_history")
    assert len(moved.click_probability) == len(request.candidate_item_ids)


def test_users_of_a_server_that_is_down_move(site) -> None:
    down = closed_port()
    both = (down, site.model_server)
    with running_service(ServiceConfig(**settings(site, targets=both))) as app:
        for target in app.service._parts.targets.all:
            target.answered()
        for request in site.requests[1:6]:
            answer = rank(app, request)
            assert answer.path == "cached"
            np.testing.assert_allclose(
                answer.click_probability,
                toy_muse.expected_score(request),
                atol=1e-5,
            )


def test_too_many_requests_are_refused(site, short_polls) -> None:
    request = site.request()
    with silent_server() as silent:
        config = settings(
            site, targets=(silent,), max_concurrent=1, max_queue=0
        )
        with (
            running_service(ServiceConfig(**config)) as app,
            concurrent.futures.ThreadPoolExecutor() as pool,
        ):
            first = pool.submit(rank, app, request, deadline_ms=2000)
            until = time.monotonic() + 10
            while not app.service._admission.inside:
                assert time.monotonic() < until
                time.sleep(0.01)
            with pytest.raises(OverloadedError):
                rank(app, request, deadline_ms=500)
            body = json.dumps({"user_id": 1}).encode()
            with pytest.raises(urllib.error.HTTPError) as error:
                urllib.request.urlopen(
                    app.rest_url + "/v1/rank", body, timeout=5
                )
            assert error.value.code == 503
            assert int(error.value.headers["Retry-After"]) >= 1
            assert first.result().path == "unranked"
            page = app.service.metrics_page()
    assert 'muse_ranking_shed_total{reason="queue_full"} 2' in page


def test_canceled_requests_leave_nothing_behind(site, short_polls) -> None:
    request = site.request()
    with silent_server() as silent:
        config = settings(site, targets=(silent,), max_background=0)
        with running_service(ServiceConfig(**config)) as app:
            with grpc.insecure_channel(app.grpc_target) as channel:
                from serving.wire import ranking_messages as wire

                call = channel.unary_unary(
                    wire.RANK,
                    request_serializer=lambda m: m.SerializeToString(),
                    response_deserializer=wire.RankResponse.FromString,
                ).future(
                    wire.RankRequest(user_id=request.user_id, deadline_ms=9000)
                )
                wait_for(lambda: app.service._admission.inside == 1)
                call.cancel()
                wait_for(lambda: app.service._admission.inside == 0)
            wait_for(lambda: not app.service._parts.prefetches._running)


def wait_for(condition) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"user_id": "a"}',
        b'{"user_id": 1, "candidate_item_ids": [0]}',
        b'{"user_id": 1, "candidate_item_ids": [1.5]}',
        b'{"user_id": 1, "nonsense": 2}',
        b'{"user_id": 1, "deadline_ms": -1}',
        b'{"user_id": 1, "num_candidates": 100000000}',
        b'{"user_id": 1e400}',
        b"[" * 100_000,
    ],
)
def test_malformed_requests_are_refused(service, body) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(service.rest_url + "/v1/rank", body, timeout=9)
    assert error.value.code == 400
    assert json.load(error.value)["error"]


def test_too_many_candidates_are_refused(site, service) -> None:
    with (
        RankingClient(service.grpc_target) as client,
        pytest.raises(InvalidArgumentError, match="at most 10000"),
    ):
        client.rank(RankingRequest(1, np.arange(1, 10_002)))


def test_a_service_that_did_not_start_leaves_the_ports_of_another(
    site, tmp_path
):
    ports = tmp_path / "ports.json"
    config = settings(site, port_file=str(ports), store="")
    with running_service(ServiceConfig(**config)) as app:
        written = ports.read_bytes()
        config["port"] = app.grpc_port
        with pytest.raises(StartupError, match="already in use"):
            with running_service(ServiceConfig(**config)):
                pass
        assert ports.read_bytes() == written
    assert not ports.exists()


def test_process_tells_its_health_and_drains(site, tmp_path) -> None:
    ports = tmp_path / "ports.json"
    config = settings(site, port_file=str(ports), log_requests=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "serving.ranking_service", json.dumps(config)],
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 60
        while not ports.exists():
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.05)
        target = f"127.0.0.1:{json.loads(ports.read_text())['port']}"
        with grpc.insecure_channel(target) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            found = health.Check(health_pb2.HealthCheckRequest(), timeout=9)
        assert found.status == health_pb2.HealthCheckResponse.SERVING
        with RankingClient(target) as client:
            answer = client.rank(
                RankingRequest(site.request().user_id, request_id="abc")
            )
        assert answer.request_id == "abc"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=40)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    lines = [json.loads(line) for line in errors.splitlines()]
    (line,) = [one for one in lines if one["message"] == "ranked"]
    assert line["request_id"] == "abc"
    assert line["path"] == answer.path == "cached"
    assert {s["name"] for s in line["stages"]} >= {"prefetch", "matching"}
