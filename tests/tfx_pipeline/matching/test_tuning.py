"""The climb to a scoring, on landscapes that are known."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from tfx_pipeline.matching import tuning
from tfx_pipeline.matching.settings import Scoring


def landscape(scoring: Scoring) -> float:
    """One peak; the weights pull on each other."""
    return (
        -abs(scoring.half_life - 20)
        - 3 * abs(scoring.popularity_weight - 1)
        - abs(scoring.repeat_weight - 3 * scoring.popularity_weight)
    )


def test_finds_the_peak_and_measures_nothing_twice():
    calls = []

    def measure(scoring):
        calls.append(scoring)
        return landscape(scoring)

    best, tried = tuning.choose(measure, {})
    everything = [
        Scoring(**dict(zip(tuning.GRID, values, strict=True)))
        for values in itertools.product(*tuning.GRID.values())
    ]
    assert best == max(everything, key=landscape)
    assert len(calls) == len(set(calls)) < len(everything) / 4
    assert [
        {**dataclasses.asdict(s), "value": landscape(s)} for s in calls
    ] == (tried)


def test_fixed_weights_stay():
    fixed = {"half_life": 7.5, "repeat_weight": 0.25}
    best, tried = tuning.choose(landscape, fixed)
    assert (best.half_life, best.repeat_weight) == (7.5, 0.25)
    assert len(tried) >= len(tuning.GRID["popularity_weight"])
    everything = {**fixed, "popularity_weight": 2.0}
    assert tuning.choose(landscape, everything) == (Scoring(**everything), [])


def test_a_flat_landscape_keeps_the_start():
    assert tuning.choose(lambda _: 0.0, {})[0] == tuning.START


@pytest.mark.parametrize(
    "name, value",
    [
        ("half_life", 0.0),
        ("popularity_weight", 0.0),
        ("repeat_weight", -1.0),
        ("half_life", float("nan")),
    ],
)
def test_weights_are_checked(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must"):
        dataclasses.replace(tuning.START, **{name: value})
