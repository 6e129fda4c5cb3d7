"""Groups of impressions by user, by item and by both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from muse_tools.compare.impressions import Impressions

REPETITION_BOUNDS = (1,)
"""Separates items that are not in the user's history from those that are."""


def names(kind: str, bounds: Sequence[int]) -> list[str]:
    """Returns the names of groups, in rising order."""
    edges = [0, *bounds]
    inner = [
        f"{low}" if high == low + 1 else f"{low}-{high - 1}"
        for low, high in zip(edges[:-1], edges[1:], strict=True)
    ]
    return [f"{kind} {part}" for part in (*inner, f"{edges[-1]}+")]


def masks(
    impressions: Impressions,
    activity_bounds: Sequence[int],
    popularity_bounds: Sequence[int],
) -> dict[str, npt.NDArray[np.bool_]]:
    """Returns masks bool (impressions,) by the name of the group."""
    found = {}
    for kind, bounds, values in (
        ("activity", activity_bounds, impressions.history),
        ("popularity", popularity_bounds, impressions.popularity),
        ("repetition", REPETITION_BOUNDS, impressions.repeats),
    ):
        place = np.digitize(values, bounds)
        for number, name in enumerate(names(kind, bounds)):
            found[name] = place == number
    return found
