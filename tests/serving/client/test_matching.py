"""Candidates by both transports, from a model served with the ranker."""

from __future__ import annotations

import numpy as np
import pytest

from serving.client import (
    InvalidArgumentError,
    Limits,
    MuseClient,
    NotFoundError,
    RecommendRequest,
    RequestError,
    ResponseError,
    SignatureError,
)
from serving.client.matching import recommend_result
from tests.serving import toy_matching

pytestmark = pytest.mark.tf

HISTORIES = [[3, 3, 8], [], [1] * 40, [2**60, 4], [5]]


@pytest.fixture(scope="module", params=["grpc", "rest"])
def client(request, muse_and_matching):
    server = muse_and_matching
    target = server.grpc if request.param == "grpc" else server.rest
    with MuseClient(target, request.param, limits=Limits(requests=2)) as client:
        yield client


def check(result, history, count=toy_matching.K):
    items, scores = toy_matching.expected(history)
    assert result.candidate_item_ids.tolist() == items[:count]
    assert result.candidate_item_ids.dtype == np.int64
    np.testing.assert_allclose(result.scores, scores[:count], rtol=1e-6)


def test_recommend_one_and_many(client):
    requests = [RecommendRequest(history) for history in HISTORIES]
    for history, result in zip(
        HISTORIES, client.recommend(requests), strict=True
    ):
        check(result, history)
    check(client.recommend(RecommendRequest([7, 7])), [7, 7])
    check(client.recommend(RecommendRequest([7, 7], 2)), [7, 7], 2)
    check(client.recommend(RecommendRequest([7], 1000)), [7])
    assert client.recommend([]) == []


def test_search(client):
    queries = np.random.default_rng(0).normal(size=(3, toy_matching.ITEMS))
    for query, result in zip(
        queries, client.search(queries, num_candidates=4), strict=True
    ):
        order = np.argsort(-query)[:4]
        assert result.candidate_item_ids.tolist() == (order + 1).tolist()
        np.testing.assert_allclose(result.scores, query[order], rtol=1e-6)


def test_errors_tell_models_and_signatures_apart(client):
    with pytest.raises(NotFoundError, match="nope"):
        client.recommend(RecommendRequest([1]), model="nope")
    with pytest.raises(SignatureError):
        client.recommend(RecommendRequest([1]), model="muse")
    with pytest.raises(InvalidArgumentError):
        client.search(np.ones((1, 2)))


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (([1.5],), "`behavior_item_ids` must be a list of whole"),
        (([[1], [2]],), "`behavior_item_ids` must .*one-dimensional"),
        (([1], 0), "`num_candidates` must be a whole number of at least 1"),
        (([1], True), "`num_candidates` must"),
        (([1], 2.0), "`num_candidates` must"),
    ],
)
def test_requests_are_checked(arguments, part):
    with pytest.raises(RequestError, match=part):
        RecommendRequest(*arguments)


def test_arguments_are_checked_before_anything_is_sent(client):
    with pytest.raises(RequestError, match=r"`requests\[1\]` must be a Recom"):
        client.recommend([RecommendRequest([1]), [2]])
    for wrong in ([1.0], [[np.nan]], [["a"]], np.zeros((0, 3))):
        with pytest.raises(RequestError, match="`query_vectors` must be fin"):
            client.search(wrong)


@pytest.mark.parametrize(
    ("outputs", "part"),
    [
        ({"scores": np.zeros((1, 2))}, "no output 'candidate_item_ids'"),
        (
            {
                "scores": np.zeros((1, 2)),
                "candidate_item_ids": np.zeros((1, 3)),
            },
            "do not fit row 0",
        ),
        (
            {
                "scores": np.zeros((0, 2)),
                "candidate_item_ids": np.zeros((0, 2)),
            },
            "do not fit row 0",
        ),
    ],
)
def test_answers_that_do_not_fit(outputs, part):
    with pytest.raises(ResponseError, match=part):
        recommend_result(outputs, 0, None)
