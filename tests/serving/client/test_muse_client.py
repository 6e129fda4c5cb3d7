"""The client against a served model, by both transports."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from serving.client import (
    InvalidArgumentError,
    Limits,
    MuseClient,
    NotFoundError,
    RankRequest,
    RequestError,
    Retry,
    SignatureError,
    UnavailableError,
    make_example,
)
from tests.serving import toy_muse

pytestmark = pytest.mark.tf


@pytest.fixture(scope="module", params=["grpc", "rest"])
def client(request, muse):
    target = muse.grpc if request.param == "grpc" else muse.rest
    with MuseClient(target, request.param) as client:
        yield client


def make_request(seed: int, behaviors: int, candidates: int) -> RankRequest:
    generator = np.random.default_rng(seed)
    items = generator.integers(1, 40, behaviors)
    return RankRequest(
        user_id=int(generator.integers(-(2**62), 2**62)),
        user=dict(zip(toy_muse.USER, generator.integers(0, 9, 5), strict=True)),
        behavior_item_ids=items,
        behaviors={"category": items % 5},
        candidate_item_ids=generator.integers(1, 40, candidates),
    )


RAGGED = [
    make_request(seed, behaviors, candidates)
    for seed, (behaviors, candidates) in enumerate(
        [(5, 3), (0, 1), (40, 7), (1, 12), (13, 2), (0, 4)]
    )
]


def test_rank_aligns_scores_with_ragged_candidates(client):
    results = client.rank(RAGGED)
    assert len(results) == len(RAGGED)
    for request, result in zip(RAGGED, results, strict=True):
        np.testing.assert_array_equal(
            result.candidate_item_ids, request.candidate_item_ids
        )
        np.testing.assert_allclose(
            result.click_probability,
            toy_muse.expected_score(request),
            rtol=1e-5,
        )


@pytest.mark.parametrize(
    ("transport", "words"),
    [
        ("rest", "this is not HTTP: is it the gRPC port?"),
        ("grpc", "this is not gRPC: is it the REST port?"),
    ],
)
def test_the_port_of_the_other_protocol_is_recognized(muse, transport, words):
    target = muse.grpc if transport == "rest" else muse.rest
    address = target.removeprefix("http://")
    with MuseClient(address, transport, retry=Retry(attempts=1)) as client:
        with pytest.raises(UnavailableError) as caught:
            client.status()
    assert words in caught.value.message
    assert caught.value.message.isprintable()


def test_one_request_gives_one_result(client):
    result = client.rank(RAGGED[2])
    np.testing.assert_allclose(
        result.click_probability,
        toy_muse.expected_score(RAGGED[2]),
        rtol=1e-5,
    )
    order = result.order()
    assert (np.diff(result.click_probability[order]) <= 0).all()
    assert client.rank([]) == []


@pytest.mark.parametrize(
    "limits", [Limits(requests=1), Limits(requests=2), Limits(ids=30)]
)
def test_batches_change_nothing(client, muse, limits):
    kind = "rest" if "http" in repr(client) else "grpc"
    target = muse.rest if kind == "rest" else muse.grpc
    with MuseClient(target, kind, limits=limits) as small:
        for one, other in zip(
            small.rank(RAGGED), client.rank(RAGGED), strict=True
        ):
            np.testing.assert_allclose(
                one.click_probability, other.click_probability, rtol=1e-6
            )


def test_explain_points_into_the_callers_history(client):
    for request, result in zip(RAGGED, client.explain(RAGGED), strict=True):
        np.testing.assert_allclose(
            result.click_probability,
            toy_muse.expected_score(request),
            rtol=1e-5,
        )
        for place, candidate in enumerate(request.candidate_item_ids):
            found = result.behavior_indices[place][result.retrieved[place]]
            want = toy_muse.expected_retrieved(request, candidate)
            assert found.tolist() == want
            assert result.tiers[place].tolist() == [len(want)] * toy_muse.TIERS


def test_embed(client):
    result = client.embed([3, -7, 2**33])
    assert result.found.tolist() == [True, False, True]
    assert result.embedding.dtype == np.float32
    np.testing.assert_array_equal(
        result.embedding[:, 0], np.array([3, 0, 2**33], np.float32)
    )


def test_examples_score_as_requests_do(client):
    examples = [make_example(request) for request in RAGGED]
    for request, result in zip(
        RAGGED, client.predict_examples(examples), strict=True
    ):
        np.testing.assert_array_equal(
            result.candidate_item_ids, request.candidate_item_ids
        )
        np.testing.assert_allclose(
            result.click_probability,
            toy_muse.expected_score(request),
            rtol=1e-5,
        )
    assert client.predict_examples([]) == []


def test_status_and_metadata(client):
    (status,) = client.status()
    assert (status.version, status.state, status.code) == (1, "AVAILABLE", "OK")
    metadata = client.metadata()
    assert (metadata.name, metadata.version) == ("muse", 1)
    rank = metadata.signatures["rank"]
    assert rank.inputs["candidate_item_ids"].dtype == "int64"
    assert rank.inputs["candidate_item_ids"].shape == (-1, -1)
    assert rank.outputs["click_probability"].dtype == "float"
    assert rank.method == "tensorflow/serving/predict"


def test_server_errors_have_their_own_classes(client, muse):
    with pytest.raises(SignatureError, match="nosuch"):
        client.predict("nosuch", {"x": np.zeros(1)})
    with pytest.raises(InvalidArgumentError):
        client.predict("embed", {"wrong": np.zeros(1, np.int64)})
    kind = "rest" if "http" in repr(client) else "grpc"
    target = muse.rest if kind == "rest" else muse.grpc
    with MuseClient(target, kind, model="nope") as other:
        with pytest.raises(NotFoundError, match="nope"):
            other.rank(RAGGED[0])
    with MuseClient(target, kind, version=9) as other:
        with pytest.raises(NotFoundError, match="9"):
            other.rank(RAGGED[0])
    with MuseClient(target, kind, label="stable") as other:
        with pytest.raises(InvalidArgumentError, match="stable"):
            other.rank(RAGGED[0])


def test_output_filter(client):
    request = make_request(1, 4, 2)
    from serving.client.batches import rank_inputs

    outputs = client.predict("explain", rank_inputs([request]), ["attention"])
    assert list(outputs) == ["attention"]


def test_threads_share_a_client(client):
    failures = []

    def call(seed: int) -> None:
        for step in range(5):
            request = make_request(100 * seed + step, step * 3, 1 + step)
            found = client.rank(request).click_probability
            want = toy_muse.expected_score(request)
            if not np.allclose(found, want, rtol=1e-5):
                failures.append((seed, step))

    threads = [threading.Thread(target=call, args=(s,)) for s in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_arguments_are_checked_before_anything_is_sent(client):
    with pytest.raises(RequestError, match=r"`requests\[1\]` must be a Rank"):
        client.rank([RAGGED[0], "no"])
    with pytest.raises(RequestError, match="`item_ids`"):
        client.embed([])
    with pytest.raises(RequestError, match=r"`examples\[0\]` must be bytes"):
        client.predict_examples(["text"])
    with pytest.raises(RequestError, match="`x` must be an array"):
        client.predict("embed", {"x": np.zeros(1, np.complex64)})
