"""Chooses a scoring on train requests."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from tfx_pipeline.matching.settings import Scoring

GRID: Mapping[str, tuple[float, ...]] = {
    "repeat_weight": (0.0, 0.3, 1.0, 3.0, 10.0),
    "popularity_weight": (0.01, 0.1, 0.3, 1.0, 3.0, 10.0),
    "half_life": (5.0, 20.0, 100.0, 500.0),
}
"""Values of each weight, in the order in which they are tried."""

START = Scoring(half_life=100.0, popularity_weight=0.3, repeat_weight=1.0)


def choose(
    measure: Callable[[Scoring], float],
    fixed: Mapping[str, float],
) -> tuple[Scoring, list[dict[str, float]]]:
    """Finds the best scoring by changing one weight at a time.

    Weights in ``fixed`` do not change. Each scoring is measured once.

    Returns:
        The best scoring, and every measured scoring with its ``value``.
    """
    best = dataclasses.replace(START, **fixed)
    values: dict[Scoring, float] = {}

    def value_of(scoring: Scoring) -> float:
        if scoring not in values:
            values[scoring] = measure(scoring)
        return values[scoring]

    free = [name for name in GRID if name not in fixed]
    before = None
    while free and best != before:
        before = best
        for name in free:
            tried = [
                dataclasses.replace(best, **{name: value})
                for value in GRID[name]
            ]
            # `max` keeps the first of equal ones, so the search cannot cycle.
            best = max([best, *tried], key=value_of)
    return best, [
        {**dataclasses.asdict(scoring), "value": value}
        for scoring, value in values.items()
    ]
