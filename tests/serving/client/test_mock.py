"""All clients with the transport for tests of programs that use them."""

from __future__ import annotations

import asyncio
import doctest

import numpy as np
import pytest

import serving.client
from serving.client import (
    AsyncMuseClient,
    AsyncRankingClient,
    Limits,
    MuseClient,
    OverloadedError,
    RankingClient,
    RankingRequest,
    RankingResult,
    RankRequest,
    Retry,
    SignatureError,
    UnavailableError,
)
from serving.client.calls import Predict
from serving.client.errors import call_error
from serving.client.testing import MockTransport
from serving.wire.ranking_messages import NOT_SENT, UNRANKED

QUICK = Retry(attempts=3, first=0.001, longest=0.002)


def tenth(inputs):
    return {"click_probability": inputs["candidate_item_ids"] / np.float32(10)}


def make_request(candidates) -> RankRequest:
    return RankRequest(7, candidates, [11], {"age": 3}, {"brand": [5]})


def test_the_example_of_the_class():
    globs = {**vars(serving.client), "np": np, "MockTransport": MockTransport}
    runner = doctest.DocTestRunner()
    for test in doctest.DocTestFinder(recurse=False).find(
        MockTransport, globs=globs
    ):
        assert test.examples
        runner.run(test)
    assert not runner.failures


def test_batches_and_padding_are_the_real_ones():
    transport = MockTransport({"rank": tenth})
    requests = [make_request([1, 2, 3]), make_request([4])] * 3
    with MuseClient("t", transport, limits=Limits(requests=4)) as client:
        results = client.rank(requests)
        assert client.status()[0].state == "AVAILABLE"
        assert set(client.metadata().signatures) == {"rank"}
    for request, result in zip(requests, results, strict=True):
        np.testing.assert_allclose(
            result.click_probability, request.candidate_item_ids / 10, rtol=1e-6
        )
    sent = [call for call in transport.calls if isinstance(call, Predict)]
    assert [len(call.inputs["user_id"]) for call in sent] == [4, 2]


def test_async_client_and_output_filter():
    async def ask():
        transport = MockTransport({"s": lambda inputs: {"a": 1, "b": 2}})
        async with AsyncMuseClient("t", transport) as client:
            assert await client.predict("s", {}, ["b"]) == {"b": 2}
            with pytest.raises(SignatureError, match="no function for 'embed'"):
                await client.embed([1])

    asyncio.run(ask())


class Failing:
    """Raises the given errors one after the other, then answers."""

    def __init__(self, answer, *errors) -> None:
        self.answer, self.errors = answer, list(errors)

    def __call__(self, _):
        if self.errors:
            raise self.errors.pop(0)
        return self.answer


RESULT = RankingResult(np.array([3, 4]), np.array([0.1, 0.2]), "full")
DOWN = call_error("UNAVAILABLE", "down")


def both(transport, ask):
    """What a method of the ranking clients gives, blocking and awaited."""
    with RankingClient("t", transport=transport, retry=QUICK) as client:
        yield lambda: ask(client)

    async def awaited():
        async with AsyncRankingClient(
            "t", transport=transport, retry=QUICK
        ) as client:
            return await ask(client)

    yield lambda: asyncio.run(awaited())


@pytest.mark.parametrize(
    ("errors", "error", "calls"),
    [
        ([], None, 1),
        ([DOWN, DOWN], None, 3),
        ([DOWN] * 3, UnavailableError, 3),
        ([call_error("RESOURCE_EXHAUSTED", "full")], OverloadedError, 1),
        ([call_error("UNAVAILABLE", UNRANKED)], UnavailableError, 1),
    ],
)
def test_rankings_are_repeated_by_the_rules_of_all_clients(
    errors, error, calls
):
    transport = MockTransport()
    for call in both(transport, lambda c: c.rank(RankingRequest(7))):
        transport.calls.clear()
        transport._ranking = Failing(RESULT, *errors)
        if error is None:
            assert call().order().tolist() == [1, 0]
        else:
            with pytest.raises(error):
                call()
        assert len(transport.calls) == calls


@pytest.mark.parametrize(
    ("message", "calls"), [("connection reset", 1), (NOT_SENT[0], 3)]
)
def test_events_are_repeated_only_if_nothing_was_sent(message, calls):
    class Down(MockTransport):
        def send(self, call, seconds):
            self.calls.append(call)
            raise call_error("UNAVAILABLE", message)

    transport = Down()
    for call in both(transport, lambda c: c.append_events(7, [1])):
        transport.calls.clear()
        with pytest.raises(UnavailableError, match=message):
            call()
        assert len(transport.calls) == calls


def test_a_deadline_bounds_the_attempt():
    class Timed(MockTransport):
        def send(self, call, seconds):
            self.seconds = seconds
            return super().send(call, seconds)

    transport = Timed(ranking=lambda _: RESULT)
    with RankingClient("t", transport=transport) as client:
        for request, timeout, most in (
            (RankingRequest(7), None, 10.0),
            (RankingRequest(7, deadline_ms=200), None, 1.2),
            (RankingRequest(7, deadline_ms=200), 0.5, 0.5),
        ):
            client.rank(request, timeout=timeout)
            assert most - 0.2 < transport.seconds <= most
