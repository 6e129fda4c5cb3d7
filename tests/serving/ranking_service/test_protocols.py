"""Statuses, headers and messages that callers get by gRPC and REST."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from typer.testing import CliRunner

from muse_tools.cli.commands import app as muse_command
from serving.client import (
    CallError,
    Retry,
    UnavailableError,
)
from serving.client.ranking import (
    AsyncRankingClient,
    RankingClient,
    RankingRequest,
)
from serving.ranking_service import (
    RankingService,
    ServiceConfig,
    running_service,
)
from serving.ranking_service import service as service_module
from serving.startup import StartupError
from serving.stores import open_store
from serving.wire import ranking_messages as wire
from tests.serving.front import front_of
from tests.serving.ranking_service.conftest import settings
from tests.serving.ranking_service.test_failures import closed_port, wait_for
from tests.serving.relay import Relay
from tests.serving.stores.conftest import RedisServer, redis_program
from tests.serving.toy_store import LAYOUT, user

pytestmark = pytest.mark.once

LARGE = 2**60 + 1


def post(app, path: str, fields: dict | bytes):
    """Status, headers and JSON of an answer."""
    body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    try:
        found = urllib.request.urlopen(app.rest_url + path, body, timeout=20)
    except urllib.error.HTTPError as error:
        found = error
    with found:
        return found.status, found.headers, json.load(found)


def by_grpc(app, **fields):
    """Answer or error, and the trailing metadata."""
    with grpc.insecure_channel(app.grpc_target) as channel:
        call = channel.unary_unary(
            wire.RANK,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=wire.RankResponse.FromString,
        )
        try:
            answer, done = call.with_call(
                wire.RankRequest(**fields), timeout=20
            )
        except grpc.RpcError as error:
            answer = done = error
        return answer, dict(done.trailing_metadata())


@pytest.mark.parametrize("unranked", ["answer", "error"])
def test_answers_without_scores_are_told_apart(site, service, unranked):
    asked = {"user_id": 1, "candidate_item_ids": [3], "deadline_ms": 300}
    config = settings(site, targets=(closed_port(),), unranked=unranked)
    with running_service(ServiceConfig(**config)) as app:
        status, headers, answer = post(app, "/v1/rank", asked)
        result, metadata = by_grpc(app, **asked)
        page = app.service.metrics_page()
    assert headers["X-Muse-Path"] == metadata["x-muse-path"] == "unranked"
    if unranked == "answer":
        assert status == 200 and answer["path"] == result.path == "unranked"
    else:
        assert status == 503 and "no model server" in answer["error"]
        assert result.code() is grpc.StatusCode.UNAVAILABLE
        assert int(headers["Retry-After"]) >= 1
        assert 'muse_ranking_failed_total{code="UNAVAILABLE"} 2' in page
    asked["deadline_ms"] = 8000
    status, headers, answer = post(service, "/v1/rank", asked)
    result, metadata = by_grpc(service, **asked)
    assert status == 200 and headers["X-Muse-Path"] == answer["path"] != (
        "unranked"
    )
    assert metadata["x-muse-path"] == result.path


def test_ids_as_text(site, service):
    items = [3, 2**62 + 1, 5]
    asked = {
        "user_id": str(LARGE),
        "candidate_item_ids": [str(items[0]), items[1], str(items[2])],
    }
    _, _, numbers = post(service, "/v1/rank", asked)
    assert numbers["user_id"] == LARGE
    assert numbers["candidate_item_ids"] == items
    _, _, texts = post(service, "/v1/rank", {**asked, "ids_as": "string"})
    assert texts["user_id"] == str(LARGE)
    assert texts["candidate_item_ids"] == [str(item) for item in items]
    assert texts["click_probability"] == pytest.approx(
        numbers["click_probability"]
    )


def test_events_with_ids_as_text(site, tmp_path):
    store = f"lmdb:{tmp_path}/store"
    open_store(store, LAYOUT).close()
    with running_service(ServiceConfig(**settings(site, store=store))) as app:
        fields = {
            "item_ids": ["11", 12],
            "behaviors": {"category": ["3", str(LARGE)]},
            "user": {"profile_2": str(LARGE)},
        }
        status, _, _ = post(
            app, "/v1/events", {"user_id": str(LARGE), **fields}
        )
        assert status == 200
    with open_store(store) as opened:
        assert list(opened.user_ids()) == [LARGE]
        found = opened.read(LARGE)
        assert found.item_ids.tolist() == [11, 12]
        assert found.behaviors["category"].tolist() == [3, LARGE]
        assert found.user == user([0, LARGE, 0, 0, 0])


def test_the_best_come_first_when_asked(site, service):
    given = [3, 9, 5, 7, 11, 2]
    asked = {"user_id": site.request(5).user_id, "candidate_item_ids": given}
    _, _, plain = post(service, "/v1/rank", asked)
    assert plain["candidate_item_ids"] == given
    scores = np.array(plain["click_probability"])
    order = np.argsort(-scores, kind="stable")
    _, _, whole = post(service, "/v1/rank", {**asked, "sort": True})
    _, _, best = post(service, "/v1/rank", {**asked, "top": 2})
    assert whole["candidate_item_ids"] == np.array(given)[order].tolist()
    assert whole["click_probability"] == pytest.approx(scores[order], abs=1e-5)
    assert best["candidate_item_ids"] == np.array(given)[order[:2]].tolist()
    with RankingClient(service.grpc_target) as client:
        found = client.rank(RankingRequest(asked["user_id"], given, top=2))
    assert found.candidate_item_ids.tolist() == best["candidate_item_ids"]


def test_refused_requests_are_counted(service):
    def counted(code: str) -> float:
        for line in service.service.metrics_page().splitlines():
            if line.startswith(f'muse_ranking_failed_total{{code="{code}"}} '):
                return float(line.split()[-1])
        return 0.0

    before = counted("INVALID_ARGUMENT"), counted("NOT_FOUND")
    for body in (b"{", b"[]", b'{"user_id": "x"}', b'{"user_id": 1.5}'):
        assert post(service, "/v1/rank", body)[0] == 400
    assert post(service, "/v1/events", {"user_id": 1})[0] == 400
    assert post(service, "/v1/rank", {"user_id": 1, "top": -1})[0] == 400
    assert post(service, "/v1/rank", {"user_id": 1, "ids_as": 3})[0] == 400
    assert by_grpc(service, user_id=1, num_candidates=-1)[0].code() is (
        grpc.StatusCode.INVALID_ARGUMENT
    )
    assert post(service, "/v1/nothing", {})[0] == 404
    after = counted("INVALID_ARGUMENT"), counted("NOT_FOUND")
    assert (after[0] - before[0], after[1] - before[1]) == (8, 1)


@pytest.mark.parametrize("host", ["::1", "::", "[::1]"])
def test_ipv6(site, host):
    with running_service(ServiceConfig(**settings(site, host=host))) as app:
        address = app.grpc_target.replace("[::]", "[::1]")
        assert address.startswith("[::1]:")
        with RankingClient(address) as client:
            answer = client.rank(RankingRequest(site.request().user_id, [3]))
        assert answer.path == "cached"
        url = app.rest_url.replace("[::]", "[::1]")
        with urllib.request.urlopen(url + "/readyz", timeout=9) as found:
            assert found.status == 200


@pytest.mark.parametrize("kind", ["port", "rest_port"])
def test_a_taken_port_is_found_first(site, kind, capfd):
    """Before anything is waited for: the model server was not asked."""
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        socket.create_server(("127.0.0.1", 0)) as server,
    ):
        config = settings(
            site,
            targets=(f"127.0.0.1:{server.getsockname()[1]}",),
            **{kind: taken.getsockname()[1]},
        )
        option = f"--{kind.replace('_', '-')};"
        with pytest.raises(StartupError, match=f"choose another {option}"):
            with running_service(ServiceConfig(**config)):
                pass
        # gRPC's own line would be first.
        assert not capfd.readouterr().err
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_slip_in_the_store_is_said(tmp_path):
    store = f"lmdb:{tmp_path}/stor"
    done = CliRunner().invoke(muse_command, ["service", "--store", store])
    assert done.exit_code == 1
    assert done.stderr.startswith(f"error: no behavior store in {tmp_path}")
    assert not list(tmp_path.iterdir())


def ready(app) -> bool:
    try:
        urllib.request.urlopen(app.rest_url + "/readyz", timeout=9).close()
    except urllib.error.HTTPError as error:
        assert error.code == 503
        return False
    return True


def test_ready_means_that_it_ranks(site):
    """A server that says AVAILABLE and cannot rank is none."""
    with front_of(site.model_server) as (front, address):
        front.faults["muse", "rank"] = grpc.StatusCode.INTERNAL
        config = settings(site, targets=(address,), poll_seconds=0.1)
        with running_service(ServiceConfig(**config)) as app:
            assert not ready(app)
            front.faults.clear()
            wait_for(lambda: ready(app))


@pytest.mark.parametrize("fault", ["goes", "hangs"])
def test_readiness_turns_with_the_next_question(site, fault):
    """Without a request that meets it, whether it closes or answers none.

    The time between questions and that for an answer are a second at most.
    """
    between = ServiceConfig.model_fields["poll_seconds"].default
    assert between + service_module._STATUS_TIMEOUT_S < 1

    async def polled():
        with contextlib.closing(Relay(site.model_server)) as near:
            config = settings(site, targets=(near.address,), poll_seconds=3600)
            async with RankingService(ServiceConfig(**config)) as service:
                (target,) = service._parts.targets.all
                while not service.ready:  # On a busy machine.
                    await service._poll_target(target)
                near.close() if fault == "goes" else near.hold()
                await service._poll_target(target)
                assert not service.ready

    asyncio.run(asyncio.wait_for(polled(), 90))


def test_the_store_is_part_of_readiness(site, tmp_path_factory):
    folder = tmp_path_factory.mktemp("r", numbered=True)
    server = RedisServer(redis_program(), folder)
    try:
        config = settings(site, store=server.url, poll_seconds=0.1)
        degraded = {**config, "ready_without_store": True}
        with (
            running_service(ServiceConfig(**config)) as app,
            running_service(ServiceConfig(**degraded)) as other,
        ):
            # A server that was never loaded is no store.
            wait_for(lambda: ready(other))
            assert not ready(app)
            open_store(server.url, LAYOUT).close()
            wait_for(lambda: ready(app))
            assert "muse_ranking_store_up 1" in app.service.metrics_page()
            server.stop()
            wait_for(lambda: not ready(app))
            page = other.service.metrics_page()
            wait_for(
                lambda: (
                    "muse_ranking_store_up 0" in other.service.metrics_page()
                )
            )
            assert ready(other) and "muse_ranking_ready 1" in page
    finally:
        server.stop()


def test_a_service_that_stops_is_unavailable_and_asked_again(site, tmp_path):
    """gRPC says UNAVAILABLE, and clients go on with its successor."""
    config = settings(site, store="")
    retry = Retry(attempts=100, longest=0.2)
    with running_service(ServiceConfig(**config)) as app:
        app.service._admission._closed = True
        with RankingClient(app.grpc_target, retry=Retry(1)) as client:
            with pytest.raises(UnavailableError, match="is stopping"):
                client.rank(RankingRequest(1, [3]))
        with RankingClient(app.grpc_target, retry=retry) as client:
            opening = threading.Timer(
                0.5, setattr, (app.service._admission, "_closed", False)
            )
            opening.start()
            assert client.rank(RankingRequest(1, [3])).path != "unranked"


@pytest.mark.parametrize("how", ["forget", "reset"])
def test_a_forgotten_connection_costs_seconds(site, how):
    """On both sides of the service, which is then ready again."""
    with contextlib.ExitStack() as stack:
        near = stack.enter_context(contextlib.closing(Relay(site.model_server)))
        config = settings(site, targets=(near.address,), poll_seconds=0.5)
        app = stack.enter_context(running_service(ServiceConfig(**config)))
        far = stack.enter_context(contextlib.closing(Relay(app.grpc_target)))
        client = stack.enter_context(RankingClient(far.address, retry=Retry(1)))

        def path() -> str:
            asked = RankingRequest(site.request().user_id, [3], deadline_ms=300)
            try:
                return client.rank(asked).path
            except CallError as error:
                return error.code

        wait_for(lambda: path() == "cached")
        for relay in (near, far):
            getattr(relay, how)()
            lost = time.monotonic()
            wait_for(lambda: path() == "cached")
            assert time.monotonic() - lost < 10
        wait_for(lambda: ready(app))


@pytest.mark.parametrize("kind", [RankingClient, AsyncRankingClient])
def test_events_are_sent_again_only_when_they_were_not_sent(kind):
    """A service that takes a call and drops it may have stored it."""
    received = []

    class Drops(grpc.GenericRpcHandler):
        def service(self, details):
            def answer(request, context):
                received.append(details.method)
                context.abort(grpc.StatusCode.UNAVAILABLE, "dropped")

            return grpc.unary_unary_rpc_method_handler(answer)

    def call(address: str, method: str, *arguments):
        retry = Retry(attempts=3, first=0.01)
        if kind is RankingClient:
            with RankingClient(address, retry=retry) as client:
                return getattr(client, method)(*arguments)

        async def run():
            async with AsyncRankingClient(address, retry=retry) as client:
                return await getattr(client, method)(*arguments)

        return asyncio.run(run())

    server = grpc.server(ThreadPoolExecutor(2), [Drops()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        for arguments in (("rank", RankingRequest(1, [3])),) + (
            ("append_events", 1, [11]),
        ):
            with pytest.raises(UnavailableError, match="dropped"):
                call(f"127.0.0.1:{port}", *arguments)
    finally:
        server.stop(0).wait()
    assert received == [wire.RANK] * 3 + [wire.APPEND]
