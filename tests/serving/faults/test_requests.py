"""Malformed and oversized requests to the ranking service."""

from __future__ import annotations

import gzip
import http.client
import json

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.client.ranking import RankingClient
from serving.wire import ranking_messages as wire
from tests.serving.faults.ranked_users import (
    CANDIDATES,
    ask,
    fill,
)

GARBAGE = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
LIMIT = 4 * 2**20
USER = 10401


@pytest.fixture(autouse=True)
def full_store(fault_redis):
    fill(fault_redis.url, [USER])


def check_alive(service) -> None:
    with RankingClient(service.grpc) as client:
        assert ask(client, USER).path in ("cached", "full")


def post(service, path: str, body: bytes, **headers) -> tuple[int, dict]:
    host = service.rest.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=20)
    try:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def call(service, method: str, data: bytes):
    """Answers the code, and the answer's bytes."""
    with grpc.insecure_channel(
        service.grpc, [("grpc.max_send_message_length", -1)]
    ) as channel:
        try:
            return grpc.StatusCode.OK, channel.unary_unary(method)(
                data, timeout=20
            )
        except grpc.RpcError as error:
            return error.code(), error.details()


NUMBERS = st.integers(-(2**70), 2**70) | st.floats() | st.booleans()
VALUES = st.recursive(
    NUMBERS | st.none() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=8,
)
FIELDS = (
    "user_id",
    "candidate_item_ids",
    "num_candidates",
    "deadline_ms",
    "request_id",
    "item_ids",
    "behaviors",
    "user",
)


@st.composite
def bodies(draw):
    """Nearly a request: one with fields that are wrong, or missing."""
    whole = draw(
        st.sampled_from(
            [
                {"user_id": 5, "candidate_item_ids": [1, 2], "deadline_ms": 9},
                {
                    "user_id": 5,
                    "item_ids": [1, 2],
                    "behaviors": {"category": [3, 4]},
                    "user": {"profile_1": 5},
                },
            ]
        )
    )
    changes = draw(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=2))
    kept = draw(st.sets(st.sampled_from(FIELDS)))
    text = json.dumps(
        {k: v for k, v in {**whole, **changes}.items() if k in kept}
    )
    place = draw(st.integers(0, len(text)))
    noise = draw(st.sampled_from(["", "", "", "{", "\x00", "\ud800", "9" * 99]))
    return (text[:place] + noise + text[place:]).encode(
        "utf-8", "surrogatepass"
    )


@GARBAGE
@given(
    st.sampled_from(["/v1/rank", "/v1/events"]),
    st.binary(max_size=100) | bodies(),
)
def test_any_body_by_rest(service, path, body):
    """It is answered, or refused with a reason."""
    status, answer = post(service, path, body)
    if status == 200:
        assert set(answer) & {"path", "appended"}
    else:
        assert status == 400 and answer["error"], answer


@GARBAGE
@given(
    st.sampled_from([wire.RANK, wire.APPEND]),
    st.binary(max_size=100),
    st.integers(0, 2**16),
)
def test_any_message_by_grpc(service, method, noise, place):
    message = {
        wire.RANK: wire.RankRequest(
            user_id=USER, candidate_item_ids=CANDIDATES, request_id="x"
        ),
        wire.APPEND: wire.AppendEventsRequest(
            user_id=9,
            item_ids=[1, 2],
            behaviors={"category": wire.Values(ids=[3, 4])},
            user={"profile_1": wire.Values(ids=[5])},
        ),
    }[method].SerializeToString()
    place %= len(message)
    for data in (noise, message[:place] + noise + message[place:]):
        code, answer = call(service, method, data)
        if code == grpc.StatusCode.OK and method == wire.RANK:
            found = wire.RankResponse.FromString(answer)
            scores = found.click_probability
            assert all(0 <= score <= 1 for score in scores)
            assert len(scores) in (0, len(found.candidate_item_ids))
        else:
            assert code in (
                grpc.StatusCode.OK,
                grpc.StatusCode.INVALID_ARGUMENT,
            ), answer


def test_too_large_for_grpc(service):
    ids = [2**60] * (LIMIT // 8)
    for method, message in (
        (wire.RANK, wire.RankRequest(user_id=1, candidate_item_ids=ids)),
        (wire.RANK, wire.RankRequest(user_id=1, request_id="x" * LIMIT)),
        (
            wire.APPEND,
            wire.AppendEventsRequest(user_id=1, item_ids=ids),
        ),
    ):
        code, text = call(service, method, message.SerializeToString())
        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max" in text
    check_alive(service)


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"[" * (LIMIT + 1), {}, 413),
        (b'{"user_id": 1, "request_id": "' + b"x" * LIMIT, {}, 413),
        (b'{"user_id": 1, "request_id": "' + b"x" * 999 + b'"}', {}, 400),
        (b'{"user_id": 1, "request_id": "\\ud800"}', {}, 400),
        (b"[" * (LIMIT - 1), {}, 400),
        (b'{"user_id": ' + b"9" * (LIMIT - 99) + b"}", {}, 400),
        (
            json.dumps({"user_id": 1, "candidate_item_ids": [7] * 10_001}),
            {},
            400,
        ),
        (gzip.compress(bytes(64 * LIMIT)), {"Content-Encoding": "gzip"}, 415),
    ],
    ids=lambda value: value if isinstance(value, int) else "",
)
def test_too_large_for_rest(service, body, headers, status):
    data = body.encode() if isinstance(body, str) else body
    found, answer = post(service, "/v1/rank", data, **headers)
    assert (found, bool(answer["error"])) == (status, True), answer
    check_alive(service)
