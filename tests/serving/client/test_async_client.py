"""The client for event loops, against the one that waits."""

from __future__ import annotations

import asyncio
import inspect
import socket

import grpc
import numpy as np
import pytest

from serving.client import (
    AsyncMuseClient,
    AsyncRankingClient,
    ClientClosedError,
    DeadlineError,
    InvalidArgumentError,
    MuseClient,
    NotFoundError,
    RankingClient,
    RankRequest,
    RequestError,
    Retry,
    UnavailableError,
    make_example,
)
from serving.client.errors import call_error
from tests.serving import toy_muse

QUICK = Retry(attempts=3, first=0.01, longest=0.02)


def make_request(seed: int) -> RankRequest:
    generator = np.random.default_rng(seed)
    items = generator.integers(1, 40, 3 * seed)
    return RankRequest(
        user_id=seed,
        user=dict(zip(toy_muse.USER, generator.integers(0, 9, 5), strict=True)),
        behavior_item_ids=items,
        behaviors={"category": items % 5},
        candidate_item_ids=generator.integers(1, 40, 1 + seed),
    )


def methods(client: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(value)
        for name, value in vars(client).items()
        if not name.startswith("_")
    }


@pytest.mark.parametrize(
    ("blocking", "awaited"),
    [(MuseClient, AsyncMuseClient), (RankingClient, AsyncRankingClient)],
)
def test_both_clients_have_the_same_methods(blocking, awaited):
    assert methods(blocking) == methods(awaited) != {}
    assert inspect.signature(blocking) == inspect.signature(awaited)
    for name, signature in methods(blocking).items():
        derived = getattr(awaited, name)
        assert inspect.iscoroutinefunction(derived)
        assert derived.__doc__ == getattr(blocking, name).__doc__ != ""
        assert "timeout" in signature.parameters


@pytest.mark.tf
@pytest.mark.parametrize("kind", ["grpc", "rest"])
def test_answers_are_those_of_the_other_client(muse, kind):
    requests = [make_request(seed) for seed in range(6)]
    examples = [make_example(request) for request in requests]
    target = getattr(muse, kind)

    async def ask():
        async with AsyncMuseClient(target, kind) as client:
            return await asyncio.gather(
                client.rank(requests),
                client.rank(requests[3]),
                client.explain(requests[2]),
                client.embed([3, -7]),
                client.predict_examples(examples),
                client.status(),
                client.metadata(),
            )

    rank, one, explain, embed, by_example, status, metadata = asyncio.run(ask())
    for request, result, again in zip(requests, rank, by_example, strict=True):
        want = toy_muse.expected_score(request)
        np.testing.assert_allclose(result.click_probability, want, rtol=1e-5)
        np.testing.assert_allclose(again.click_probability, want, rtol=1e-5)
    with MuseClient(target, kind) as client:
        np.testing.assert_allclose(
            one.click_probability,
            client.rank(requests[3]).click_probability,
            rtol=1e-6,
        )
        np.testing.assert_array_equal(
            explain.behavior_indices,
            client.explain(requests[2]).behavior_indices,
        )
        assert embed.found.tolist() == [True, False]
        assert status == client.status()
        assert metadata == client.metadata()


@pytest.mark.tf
@pytest.mark.parametrize("kind", ["grpc", "rest"])
def test_errors_are_those_of_the_other_client(muse, kind):
    target = getattr(muse, kind)

    async def ask():
        async with AsyncMuseClient(target, kind) as client:
            with pytest.raises(InvalidArgumentError):
                await client.predict("embed", {"wrong": np.zeros(1, np.int64)})
            with pytest.raises(RequestError, match=r"`requests\[0\]` must"):
                await client.rank(["no"])
        with pytest.raises(ClientClosedError):
            await client.status()
        async with AsyncMuseClient(target, kind, model="nope") as client:
            with pytest.raises(NotFoundError, match="nope"):
                await client.status()

    asyncio.run(ask())


class Scripted:
    """A transport that does what it is told, call by call."""

    def __init__(self, *script) -> None:
        self.script = list(script)
        self.seconds: list[float] = []

    async def send(self, call, seconds):
        self.seconds.append(seconds)
        step = self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("code", "calls"),
    [("UNAVAILABLE", 3), ("INTERNAL", 1), ("DEADLINE_EXCEEDED", 1)],
)
def test_only_unavailable_is_tried_again(code, calls):
    transport = Scripted(*[call_error(code, "no")] * 5)
    client = AsyncMuseClient("t", transport, retry=QUICK)
    with pytest.raises(Exception, match=f"{code}: no"):
        asyncio.run(client.predict("s", {}))
    assert len(transport.seconds) == calls


def test_timeout_bounds_every_attempt():
    transport = Scripted(*[call_error("UNAVAILABLE", "no")] * 100, {"y": 1})
    patient = Retry(attempts=100, first=0.1, factor=1.0, longest=0.1)
    client = AsyncMuseClient("t", transport, retry=patient)
    # On a busy machine the time may be over after a pause, not before it.
    with pytest.raises((UnavailableError, DeadlineError)):
        asyncio.run(client.predict("s", {}, timeout=1.0))
    assert 2 <= len(transport.seconds) < 100
    assert all(0 < seconds <= 1.0 for seconds in transport.seconds)
    assert transport.seconds == sorted(transport.seconds, reverse=True)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_timeout_must_be_a_time(timeout):
    with pytest.raises(RequestError, match="`timeout` must be above 0"):
        asyncio.run(AsyncMuseClient("t:1").status(timeout=timeout))


def test_no_server():
    async def ask(port: int):
        async with AsyncMuseClient(f"127.0.0.1:{port}", retry=QUICK) as client:
            with pytest.raises(UnavailableError):
                await client.status()

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        asyncio.run(ask(taken.getsockname()[1]))


def hanging():
    """A gRPC server whose calls end only when the caller goes away."""
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def hang(_, __):
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    handler = grpc.method_handlers_generic_handler(
        "tensorflow.serving.PredictionService",
        {"Predict": grpc.unary_unary_rpc_method_handler(hang)},
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    return server, server.add_insecure_port("127.0.0.1:0"), started, cancelled


@pytest.mark.parametrize("end", ["cancel", "timeout", "close"])
def test_an_abandoned_call_ends_at_the_server(end):
    async def ask():
        server, port, started, cancelled = hanging()
        await server.start()
        async with AsyncMuseClient(f"127.0.0.1:{port}") as client:
            timeout = 0.5 if end == "timeout" else None
            call = asyncio.create_task(client.predict("s", {}, timeout=timeout))
            await asyncio.wait_for(started.wait(), 10)
            if end == "cancel":
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
            elif end == "timeout":
                with pytest.raises(DeadlineError):
                    await call
            else:
                await client.close()
                with pytest.raises(ClientClosedError):
                    await call
            await asyncio.wait_for(cancelled.wait(), 10)
        await server.stop(None)

    asyncio.run(ask())
