"""Groups of impressions for which metrics are computed.

A slice is a property of the request or of the candidate; each of its groups has
one value, or a range of numbers. Values are those of the raw tables. The most
frequent ones have their own groups; ranges of numbers have about equal sizes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from schemas.columns import Feature
from schemas.ranking_schema import RankingSchema
from schemas.settings_file import ConfigError
from tfx_pipeline import features

HISTORY = "history_length"
HISTORY_BOUNDS = (100, 300, 1000)
"""Lower bounds of the buckets of a request's number of behaviors."""
POPULARITY = "item_popularity"
POPULARITY_BOUNDS = (1, 10, 100)
"""Lower bounds of the buckets of an item's training impressions."""
MOST = 24
"""Values of a category that have their own groups: as many as hours."""
OTHER = "other"
MISSING = "missing"
_NUMBER_GROUPS = 5
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday") + (
    "Saturday",
    "Sunday",
)

Values = tuple[Any, ...]
Counts = dict[Any, int]


def check(names: Sequence[str], declared: RankingSchema) -> None:
    """Checks the names of slices.

    Raises:
        ConfigError: the data does not have such a slice.
    """
    known = [HISTORY, POPULARITY, *_features(declared)]
    for name in names:
        if name not in known:
            raise ConfigError(
                f"evaluator.slices: expected {', '.join(known)}. "
                f"Received: {name!r}"
            )


def _features(declared: RankingSchema) -> dict[str, Feature]:
    """Returns the features that can be slices, by the name of the slice."""
    return {
        name: feature
        for name, feature in declared.features.learned().items()
        if not name.startswith("behavior_") and feature.kind != "vector"
    }


def bucket_names(bounds: Sequence[int]) -> list[str]:
    """Returns readable names of the buckets between bounds."""
    edges = [0, *bounds]
    inner = [
        str(low) if low == high - 1 else f"{low}-{high - 1}"
        for low, high in zip(edges[:-1], edges[1:], strict=True)
    ]
    return [*inner, f"{edges[-1]}+"]


_BUCKETS = {
    HISTORY: bucket_names(HISTORY_BOUNDS),
    POPULARITY: bucket_names(POPULARITY_BOUNDS),
}


def of_candidates(
    example: tf.train.Example, names: Sequence[str]
) -> dict[str, list[Values]]:
    """Returns the values of each candidate of a request, by slice."""
    count = len(example_values(example, features.CLICKS))
    return {name: _per_candidate(example, name, count) for name in names}


def _per_candidate(
    example: tf.train.Example, name: str, count: int
) -> list[Values]:
    """Returns the values of each candidate; () if they are missing."""
    if name == HISTORY:
        items = example_values(example, features.BEHAVIOR_ITEM_IDS)
        length = int(np.count_nonzero(items))
        return [_bucket(HISTORY_BOUNDS, name, length)] * count
    if name == POPULARITY:
        return [
            _bucket(POPULARITY_BOUNDS, name, value)
            for value in example_values(example, features.CANDIDATE_POPULARITY)
        ]
    if name.startswith("user_"):
        return [_given(example_values(example, name))] * count
    column = name.replace("item_", "candidate_", 1)
    values = example_values(example, column).reshape(count, -1)
    return [_given(row) for row in values]


def _bucket(bounds: Sequence[int], name: str, value: int) -> Values:
    return (_BUCKETS[name][int(np.digitize(value, bounds))],)


def _given(values: np.ndarray) -> Values:
    present = values == values if values.dtype.kind == "f" else values != 0
    return tuple(dict.fromkeys(values[present].tolist()))


def example_values(example: tf.train.Example, name: str) -> np.ndarray:
    """Returns a column of an Example, int64 or float32 (n,)."""
    feature = example.features.feature[name]
    if feature.HasField("float_list"):
        return np.asarray(feature.float_list.value, np.float32)
    return np.asarray(feature.int64_list.value, np.int64)


def counted(value: Any) -> Any:
    """Returns the value under which `kept` counts a value.

    Numbers have four digits, as the bounds between groups do, so that their
    distinct values are few.
    """
    return float(f"{value:.4g}") if isinstance(value, float) else value


def most_frequent(counts: Counts) -> Counts:
    """Returns the counts that `kept` needs: all numbers, or `MOST` values."""
    if any(isinstance(value, float) for value in counts):
        return counts
    order = sorted(counts, key=lambda value: (-counts[value], value))
    return {value: counts[value] for value in order[:MOST]}


def kept(counts: Counts) -> list[Any]:
    """Returns the values that define the groups of a slice.

    For categories, these are the most frequent values; for numbers, the bounds
    between groups with about equally many impressions. ``counts`` has the
    impressions of each `counted` value.
    """
    if not any(isinstance(value, float) for value in counts):
        return list(most_frequent(counts))
    values = sorted(counts)
    shares = np.cumsum([counts[value] for value in values])
    places = np.arange(1, _NUMBER_GROUPS) / _NUMBER_GROUPS * shares[-1]
    chosen = np.searchsorted(shares, places, side="right")
    return sorted({values[min(place, len(values) - 1)] for place in chosen})


def name_of(value: Any, kept_values: Sequence[Any]) -> str:
    """Returns the name of the group to which a value belongs."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        edges = [f"{bound:.4g}" for bound in kept_values]
        place = int(np.digitize(value, kept_values))
        if not place:
            return f"below {edges[0]}"
        if place == len(edges):
            return f"{edges[-1]} and above"
        return f"{edges[place - 1]} to {edges[place]}"
    return str(value) if value in kept_values else OTHER


def ordered(
    name: str, rows: Mapping[str, Mapping[str, Any]]
) -> list[tuple[str, Mapping[str, Any]]]:
    """Sorts the groups of a slice.

    Buckets and numbers are in ascending order, categories by size with the
    largest first. `OTHER` and `MISSING` are at the end.
    """
    buckets = _BUCKETS.get(name, [])

    def place(item: tuple[str, Mapping[str, Any]]) -> tuple[Any, ...]:
        group, row = item
        if group in buckets:
            return 0, buckets.index(group)
        if group in (OTHER, MISSING):
            return 2, group == MISSING
        if group.startswith("below "):
            return 0, -math.inf
        if " " in group:
            return 0, float(group.partition(" ")[0])
        return 1, -row["impressions"], group

    return sorted(rows.items(), key=place)


def shown(name: str, group: str, declared: RankingSchema) -> str:
    """Returns the name of a group on a page; hours and days have words."""
    feature = _features(declared).get(name)
    if feature is None or not feature.time or not group.isdigit():
        return group
    value = int(group) - 1  # 0 is missing.
    return f"{value}:00" if feature.time == "hour" else _WEEKDAYS[value]
