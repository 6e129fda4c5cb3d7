"""Rules that involve several parts of a declaration."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from schemas.columns import Feature, Features

if TYPE_CHECKING:
    from schemas.ranking_schema import RankingSchema

_NAME = re.compile("[a-z][a-z0-9_]*")
_OF_CANDIDATES = {"item_ids", "rows", "mask", "popularity", "features"}
# With the prefix of the group, these would be names of other tensors.
_TAKEN = {
    "user": {"id", "features", "numbers"},
    "item": {"id", "ids", "vector", "numbers", "matches"} | _OF_CANDIDATES,
    "context": {"features", "numbers"},
    "candidate": {"numbers", "matches"} | _OF_CANDIDATES,
    "behavior": {"item_ids", "rows", "mask", "features", "time", "times"},
}


def problems(declared: RankingSchema) -> Iterator[str]:
    """Yields a message for each conflict between parts of a declaration."""
    features = declared.features
    for group, taken in _TAKEN.items():
        for name in getattr(features, group):
            if not _NAME.fullmatch(name) or name in taken:
                yield (
                    f"features.{group}: expected names of small letters, "
                    "digits and _ that begin with a letter and are none of "
                    f"{', '.join(sorted(taken))}. Received: {name!r}"
                )
    seen: dict[str, str] = {}
    for group in ("item", "user", "context", "candidate"):
        for name in getattr(features, group):
            if name in seen:
                yield (
                    f"features.{group}: expected names that differ from those "
                    f"in features.{seen[name]}. Received: {name!r} in both"
                )
            seen[name] = group
    if not features.item:
        yield "features.item: expected at least one feature. Received: none"
    yield from _behavior_problems(features, seen)
    yield from _time_problems(declared)
    if len(set(features.matches)) < len(features.matches):
        yield (
            "features.matches: expected each name once. Received: "
            f"{', '.join(features.matches)}"
        )
    for name in features.matches:
        for group in ("item", "candidate"):
            if f"{name}_matches" in getattr(features, group):
                yield (
                    f"features.{group}: expected another name, because a count "
                    f"of matches has this one. Received: '{name}_matches'"
                )
    for group in ("user", "item", "behavior"):
        for name, feature in getattr(features, group).items():
            if feature.training_only:
                yield (
                    f"features.{group}.{name}.training_only: expected only "
                    "in context and candidate features. Received: true"
                )
    for group in ("context", "candidate"):
        for name, feature in getattr(features, group).items():
            if feature.training_only and not feature.is_index:
                yield (
                    f"features.{group}.{name}.training_only: expected "
                    "categories or buckets. Received: "
                    f"type: {feature.type} without buckets"
                )
    yield from _label_problems(declared)
    for table, columns in declared.tables.items():
        held: dict[str, str] = {}
        for name, column in columns.items():
            other = held.get(column, "")
            if name == "action" and other.startswith("behavior_"):
                continue  # The action may also be a behavior feature.
            if other:
                yield (
                    f"table {table}: expected different columns for "
                    f"{other} and {name}. Received: {column!r} twice"
                )
            held[column] = name


def _behavior_problems(
    features: Features, seen: dict[str, str]
) -> Iterator[str]:
    for name, feature in features.behavior.items():
        key = f"features.behavior.{name}"
        group = seen.get(name)
        if group == "item":
            same = Feature(column=feature.column)
            if feature != same:
                yield (
                    f"{key}: expected at most a column, because it is the "
                    f"item feature {name}. Received: "
                    f"{feature.model_dump(exclude_defaults=True)}"
                )
            item = features.item[name]
            if not item.is_index or (item.many and feature.column):
                yield (
                    f"{key}: expected an item feature with categories or "
                    "buckets, and no column if it has many. "
                    f"Received: {item.model_dump(exclude_defaults=True)}"
                )
        elif group:
            yield (
                f"{key}: expected a name that differs from those in "
                f"features.{group}. Received: {name!r} in both"
            )
        elif not feature.is_index or feature.many:
            yield (
                f"{key}: expected one category, or a number in buckets. "
                "Received: "
                f"{feature.model_dump(exclude_defaults=True)}"
            )
    for name in features.matches:
        if name not in features.behavior or name not in features.item:
            known = [n for n in features.behavior if n in features.item]
            yield (
                "features.matches: expected item features among "
                f"features.behavior, {', '.join(known) or 'none'}. "
                f"Received: {name!r}"
            )


def _time_problems(declared: RankingSchema) -> Iterator[str]:
    allowed = {"context": ("hour", "weekday"), "behavior": ("since",)}
    for group in _TAKEN:
        for name, feature in getattr(declared.features, group).items():
            if feature.time and (
                not declared.log or feature.time not in allowed.get(group, ())
            ):
                yield (
                    f"features.{group}.{name}.time: expected hour or "
                    "weekday of context, or since of behaviors, with the "
                    f"section log. Received: {feature.time}"
                )
            if feature.time and feature.column:
                yield (
                    f"features.{group}.{name}: expected no column, because it "
                    f"is computed from times. Received: {feature.column!r}"
                )


def _label_problems(declared: RankingSchema) -> Iterator[str]:
    for place, (name, label) in enumerate(declared.labels.items()):
        if not _NAME.fullmatch(name) or (place and name == "click"):
            yield (
                "labels: expected names of small letters, digits and _ that "
                "begin with a letter; only the first may be click. "
                f"Received: {name!r}"
            )
        if declared.log and label.one_hot:
            yield (
                f"labels.{name}.one_hot: expected false in logs. Received: true"
            )
