"""Recall against counting by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tfx_pipeline.matching import evaluation

ANSWERS = np.array([[5, 7, 9, 2], [1, 2, 3, 4]])
USERS = np.array([0, 0, 0, 1, 1])
CLICKED = np.array([5, 9, 8, 4, 2**62])


def test_hits_by_hand():
    found = evaluation.hits(ANSWERS, USERS, CLICKED, (1, 3, 4))
    assert found.tolist() == [
        [True, True, True],
        [False, True, True],
        [False, False, False],
        [False, False, True],
        [False, False, False],
    ]


def test_recall_weighs_clicks_and_its_interval_resamples_users():
    ks = (1, 3, 4)
    found = evaluation.hits(ANSWERS, USERS, CLICKED, ks)
    result = evaluation.recall(found, USERS, ks)
    assert [result[str(k)]["recall"] for k in ks] == pytest.approx(
        [1 / 5, 2 / 5, 3 / 5]
    )
    # Two users: a resample holds both, or one of them twice.
    assert result["3"]["low"] == pytest.approx(0.0)
    assert result["3"]["high"] == pytest.approx(2 / 3)
    # The order of the clicks says nothing.
    order = np.array([4, 0, 2, 1, 3])
    assert evaluation.recall(found[order], USERS[order], ks) == result


def test_recall_without_clicks_is_no_number():
    none = np.zeros(0, np.int64)
    found = evaluation.hits(ANSWERS, none, none, (1,))
    (value,) = evaluation.recall(found, none, (1,)).values()
    assert all(math.isnan(number) for number in value.values())


def test_random_recall_is_what_drawing_gives():
    rng = np.random.default_rng(0)
    drawn = [np.isin(3, rng.permutation(10)[:4]) for _ in range(4000)]
    expected = evaluation.random_recall(10, 1.0, (4, 10))
    assert expected["4"]["recall"] == pytest.approx(np.mean(drawn), abs=0.03)
    assert expected["10"]["recall"] == 1
    half = evaluation.random_recall(10, 0.5, (4,))
    assert half["4"]["recall"] == pytest.approx(0.2)


def test_popular_first_and_sizes():
    ids = np.array([10, 20, 30, 40])
    popular = evaluation.popular_first(ids, np.array([1, 5, 5, 0]), 3)
    assert popular.tolist() == [20, 30, 10]
    assert evaluation.choose_ks(500) == (1, 10, 50, 100, 500)
    assert evaluation.choose_ks(50) == (1, 10, 50)
    assert evaluation.choose_ks(1) == (1,)


def test_line_for_people():
    values = {"1": {"recall": 0.5, "low": 0.25, "high": 0.75}}
    assert evaluation.as_line("x", values) == (
        "recall of x: @1 0.5000 [0.2500, 0.7500]"
    )
    assert evaluation.as_line("x", {"1": {"recall": 0.5}}).endswith("@1 0.5000")
