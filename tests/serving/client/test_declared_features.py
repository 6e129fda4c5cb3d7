"""Features go by the names that the served model declares."""

from __future__ import annotations

import asyncio
import inspect
import pathlib
import time

import numpy as np
import pytest

from serving.client import (
    AsyncMuseClient,
    InvalidArgumentError,
    MuseClient,
    PrefetchRequest,
    RankRequest,
    RequestError,
    Retry,
    UnavailableError,
)
from serving.client.calls import GetMetadata, Predict
from serving.client.errors import call_error
from serving.client.fresh_items import serving_version
from serving.client.testing import MockTransport
from tests.serving import toy_muse

pytestmark = [pytest.mark.once, pytest.mark.tf]

KINDS = [
    (client, transport)
    for client in (MuseClient, AsyncMuseClient)
    for transport in ("grpc", "rest")
]


def outcomes(client, *steps) -> tuple[list, list[type]]:
    """What calls by one client give or raise, and what was sent for them."""
    sent: list[type] = []
    send = client._transport.send

    def noting(call, seconds):
        sent.append(type(call))
        return send(call, seconds)

    client._transport.send = noting

    async def run() -> list:
        found = []
        for step in steps:
            try:
                result = step(client)
                if inspect.isawaitable(result):
                    result = await result
            except Exception as error:
                result = error
            found.append(result)
        closing = client.close()
        if closing is not None:
            await closing
        return found

    return asyncio.run(run()), sent


@pytest.mark.parametrize(("kind", "transport"), KINDS)
def test_names_are_asked_for_once_and_checked(muse, kind, transport):
    good = RankRequest(5, [3, 4], [3, 3], {"profile_2": 9})
    undeclared = RankRequest(5, [3, 4], user={"profile_2": 9, "height": 1})
    wrong_list = PrefetchRequest(5, [3], behaviors={"brand": [1]})
    target = muse.grpc if transport == "grpc" else muse.rest

    async def opened() -> MuseClient | AsyncMuseClient:
        return kind(target, transport)

    client = kind(target, transport) if kind is MuseClient else None
    client = client or asyncio.run(opened())
    found, sent = outcomes(
        client,
        lambda client: client.rank(undeclared),
        lambda client: client.rank(good),
        lambda client: client.explain([good, good]),
        lambda client: client.prefetch(wrong_list),
    )
    height, ranked, explained, brand = found
    assert isinstance(height, RequestError)
    assert str(height) == (
        "`user` must name features of the model: profile_1, profile_2, "
        "profile_3, profile_4, profile_5. Received: 'height'"
    )
    assert isinstance(brand, RequestError)
    assert "`behaviors` must name features of the model: category." in str(
        brand
    )
    # What is left out is 0.
    for result in (ranked, *explained):
        np.testing.assert_allclose(
            result.click_probability,
            toy_muse.expected_score(good),
            rtol=1e-5,
        )
    assert sent == [GetMetadata, Predict, Predict]


def test_another_version_may_declare_others(tmp_path: pathlib.Path) -> None:
    """Which the client of each protocol notices by itself."""
    from serving.model_server import ServerConfig, running

    served = tmp_path / "served"
    toy_muse.export_toy_muse(served)
    other = toy_muse.export_toy_muse(
        tmp_path, 2, user=("age",), behavior=("brand", "shop")
    )
    config = ServerConfig(
        model_base_path=str(served),
        port=0,
        rest_api_port=0,
        file_system_poll_wait_seconds=0.1,
    )
    before = RankRequest(5, [3, 4], [3, 3], {"profile_2": 9})
    after = RankRequest(
        5, [3, 4], [3, 6], {"age": 7}, {"brand": [1, 2], "shop": [30, 40]}
    )
    with (
        running(config) as app,
        MuseClient(app.grpc_target) as grpc,
        MuseClient(app.rest_url, "rest") as rest,
    ):
        for client in (grpc, rest):
            client.rank(before)
            with pytest.raises(RequestError, match="category"):
                client.rank(RankRequest(5, [3], [4], {}, {"brand": [1]}))
        other.rename(served / "2")
        for client in (grpc, rest):
            until = time.monotonic() + 60
            while serving_version(client) != 2:
                assert time.monotonic() < until
                time.sleep(0.05)
            none = RankRequest(5, [3, 4], [3, 3])
            np.testing.assert_allclose(
                client.rank(none).click_probability,
                toy_muse.expected_score(none),
                rtol=1e-5,
            )
            np.testing.assert_allclose(
                client.rank(after).click_probability,
                toy_muse.expected_score(after),
                rtol=1e-5,
            )
            with pytest.raises(RequestError, match="model: age. .*profile_2"):
                client.rank(before)


def refuse(_):
    raise call_error("INVALID_ARGUMENT", "no room for these")


@pytest.mark.parametrize(
    "answers",
    [
        [None, None],
        [None, call_error("UNAVAILABLE", "gone")],
    ],
)
def test_a_refusal_for_another_reason_stays_what_it_is(answers):
    class Asked(MockTransport):
        def send(self, call, seconds):
            if isinstance(call, GetMetadata) and (error := answers.pop(0)):
                self.calls.append(call)
                raise error
            return super().send(call, seconds)

    transport = Asked({"upsert_items": refuse})
    with MuseClient("t", transport, retry=Retry(attempts=1)) as client:
        with pytest.raises(InvalidArgumentError, match="no room"):
            client.upsert_items([1], [[1.0]], {"brand": [3]})
    asked = [type(call) for call in transport.calls[:3]]
    assert asked == [GetMetadata, Predict, GetMetadata]


def test_without_metadata_nothing_is_sent():
    class Down(MockTransport):
        def send(self, call, seconds):
            self.calls.append(call)
            raise call_error("UNAVAILABLE", "down")

    transport = Down()
    with MuseClient("t", transport, retry=Retry(attempts=1)) as client:
        with pytest.raises(UnavailableError):
            client.rank(RankRequest(1, [3]))
    assert {type(call) for call in transport.calls} == {GetMetadata}
