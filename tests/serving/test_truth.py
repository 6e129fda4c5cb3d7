"""What the soak takes for right and for wrong."""

from __future__ import annotations

import asyncio
import dataclasses

import numpy as np
import pytest

from benchmarks.load.truth import Known, Truth
from serving.client import RankingResult
from tests.serving.toy_muse import expected_score

pytestmark = pytest.mark.tf

CANDIDATES = np.array([3, 5, 8])


@pytest.fixture
def user() -> Known:
    return Known(
        user_id=4,
        user={"profile_1": 1, "profile_5": 9},
        item_ids=np.array([3, 5, 3, 9, 3, 8]),
        behaviors={"category": np.arange(6)},
        limit=4,
    )


def answer(path: str, request, length: int) -> RankingResult:
    return RankingResult(
        candidate_item_ids=CANDIDATES,
        click_probability=expected_score(request),
        path=path,
        history_length=length,
    )


def right(endpoint, user, result, asked=CANDIDATES) -> bool:
    async def ask() -> bool:
        truth = Truth(endpoint.grpc, ["muse"])
        found = await truth.right_result(user, asked, result)
        await truth.close()
        return found

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("path", "length"), [("cached", 4), ("full", 4), ("shortened", 2)]
)
def test_the_newest_behaviors_are_right(muse, user, path, length):
    result = answer(path, user.request(CANDIDATES, length), length)
    assert right(muse, user, result)
    assert right(muse, user, result, asked=None)


@pytest.mark.parametrize("known", [True, False])
def test_no_history_is_right_with_and_without_user_features(muse, user, known):
    request = user.request(CANDIDATES, 0, 0, known)
    assert right(muse, user, answer("no_history", request, 0))


def test_the_cache_may_be_a_little_older_for_a_user_who_does_something(
    muse, user
):
    old = answer("cached", user.request(CANDIDATES, 4, missing=1), 4)
    assert not right(muse, user, old)
    moving = dataclasses.replace(user, still=False)
    assert right(muse, moving, old)
    assert not right(muse, moving, dataclasses.replace(old, path="full"))
    mixed = answer("cached", user.request(CANDIDATES[::-1], 4), 4)
    assert not right(muse, moving, mixed)


def test_other_scores_candidates_and_lengths_are_wrong(muse, user):
    good = answer("full", user.request(CANDIDATES, 4), 4)
    scores = good.click_probability
    for wrong in (
        {"click_probability": scores + np.float32(2e-5)},
        {"click_probability": scores[:2]},
        {"click_probability": scores[:0]},
        {"candidate_item_ids": CANDIDATES[::-1]},
        {"history_length": 3},
        {"path": "no_history"},
        {"path": "unranked"},
    ):
        assert not right(muse, user, dataclasses.replace(good, **wrong)), wrong
    assert right(muse, user, good)
    unranked = dataclasses.replace(
        good, path="unranked", click_probability=scores[:0]
    )
    assert right(muse, user, unranked)
