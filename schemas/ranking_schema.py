"""The declaration of a ranking data set: its columns and its features.

A feature ``f`` has one name everywhere behind the raw tables: ``user_<f>`` of
users, ``item_<f>`` of items (``candidate_<f>`` in Examples), ``behavior_<f>``
of behaviors. Columns of files may be called anything.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
import os
import pathlib
import re
import zoneinfo
from collections.abc import Iterator
from typing import Any, Literal

import pydantic

from schemas import settings_file
from schemas.settings_file import ConfigError, Section

FILE_NAME = "schema.yaml"
_FOLDER = pathlib.Path(__file__).parent
_NAME = re.compile("[a-z][a-z0-9_]*")
_OF_CANDIDATES = {"item_ids", "rows", "mask", "popularity", "features"}
# What a prefix and these would make is the name of something else.
_TAKEN = {
    "user": {"id", "features", "numbers"},
    "item": {"id", "ids", "vector", "numbers", "matches"} | _OF_CANDIDATES,
    "context": {"features", "numbers"},
    "candidate": {"numbers", "matches"} | _OF_CANDIDATES,
    "behavior": {"item_ids", "rows", "mask", "features", "time", "times"},
}
_SINCE_BUCKETS = 16


class Place(Section):
    """Where values stand; in YAML the name alone is enough."""

    column: str = ""
    """Name in the file; by default that of the feature."""

    separator: str = ""
    """Lists may be texts with this between the values."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        if value is None:
            return {}
        if isinstance(value, (bool, int, float, datetime.date)):
            raise ValueError(
                "expected the name of a column, in quotes where YAML takes it "
                f"for something else. Received: {value}"
            )
        return {"column": value} if isinstance(value, str) else value


class Column(Place):
    """A column of keys or ids."""

    type: Literal["int64", "string"] = "int64"
    """Type in the file. A text is its `schemas.hashing.stable_id` behind it."""


class Label(Place):
    """What the ranker predicts."""

    one_hot: bool = False
    """Whether the column holds [1 - label, label] instead of 0 or 1."""

    at_least: float | None = None
    """The label is whether the column is at least this, such as a rating."""

    loss_weight: float = pydantic.Field(default=1.0, gt=0)
    """What its loss counts, beside those of the other labels."""


class Feature(Place):
    """One feature; its ``kind`` says what becomes of its values.

    Categories, ``type`` int64 or string, are indices of a vocabulary, or of
    ``hashed`` buckets. Numbers, ``type`` float, are standardized, or are
    indices of ``buckets``. What is missing has an index, or a flag, of its
    own.
    """

    type: Literal["int64", "string", "float", "vector"] = "int64"
    """Type in the file. A text is its `schemas.hashing.stable_id` behind it."""

    many: int = pydantic.Field(default=0, ge=0, le=1000)
    """Of lists of categories: how many values count, the first ones."""

    hashed: int = pydantic.Field(default=0, ge=0)
    """Of categories: buckets of a hash, instead of a vocabulary."""

    buckets: int = pydantic.Field(default=0, ge=0, le=1000)
    """Of numbers: quantiles, each with an embedding."""

    log: bool = False
    """Of numbers without buckets: the logarithm, sign(x) log(1 + |x|)."""

    dim: int = pydantic.Field(default=0, ge=0)
    """Of vectors: how many numbers."""

    training_only: bool = False
    """Of context and candidates: not known in serving, such as the position.
    There it is missing; so it is for some of the training."""

    time: Literal["", "hour", "weekday", "since"] = ""
    """Made from the times of logs: of context ``hour`` (0 to 23, of the day
    in ``log.timezone``) or ``weekday`` (0 is Monday); of behaviors ``since``,
    the seconds up to the request, in 16 buckets unless it says otherwise."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _of_times(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("time") == "since":
            return {"type": "float", "buckets": _SINCE_BUCKETS, **value}
        return value

    @pydantic.model_validator(mode="after")
    def _fits(self) -> Feature:
        category = self.type in ("int64", "string")
        for key, allowed, what in (
            ("many", category, "type: int64 or string"),
            ("hashed", category, "type: int64 or string"),
            ("buckets", self.type == "float", "type: float"),
            ("log", self.type == "float", "type: float"),
            ("dim", self.type == "vector", "type: vector"),
        ):
            if getattr(self, key) and not allowed:
                raise ValueError(
                    f"{key} is of features with {what}. "
                    f"Received: type: {self.type}"
                )
        if self.type == "vector" and not self.dim:
            raise ValueError(
                "a vector needs dim, how many numbers it has. Received: none"
            )
        if self.separator and not (self.many or self.dim):
            raise ValueError(
                "separator is of lists: features with many, and vectors. "
                f"Received: {self.separator!r}"
            )
        if self.buckets == 1 or (self.log and self.buckets):
            raise ValueError(
                "expected at least two buckets, and log without buckets. "
                f"Received: buckets: {self.buckets}, log: {self.log}"
            )
        return self

    @property
    def kind(
        self,
    ) -> Literal["vocabulary", "hashed", "buckets", "number", "vector"]:
        """What becomes of values: indices (the first three) or numbers."""
        if self.type == "vector":
            return "vector"
        if self.type == "float":
            return "buckets" if self.buckets else "number"
        return "hashed" if self.hashed else "vocabulary"

    @property
    def is_index(self) -> bool:
        """Whether the model gets indices, to embed, and not numbers."""
        return self.kind in ("vocabulary", "hashed", "buckets")

    @property
    def dtype(self) -> Literal["int64", "float32"]:
        """Type of raw values behind the tables; NaN, or 0, is missing."""
        return "float32" if self.type in ("float", "vector") else "int64"

    @property
    def raw_width(self) -> int:
        """Raw values of one thing: 1, ``many`` or ``dim``."""
        return self.dim or self.many or 1

    @property
    def width(self) -> int:
        """What the model gets of one thing: indices, or numbers and a flag."""
        return self.raw_width if self.is_index else self.raw_width + 1


class Features(Section):
    """Features by group. Names differ between groups, but for behaviors."""

    user: dict[str, Feature] = {}
    """Of users."""

    item: dict[str, Feature]
    """Of items, as candidates and in histories."""

    context: dict[str, Feature] = {}
    """Of requests: columns of the impressions."""

    candidate: dict[str, Feature] = {}
    """Of impressions, one for each candidate, such as the position: columns
    of the impressions."""

    behavior: dict[str, Feature] = {}
    """Of each behavior. With the name of an item feature it is that: as the
    item table has it, or, with a column, as it was when it happened. Any other
    is the behavior's own, such as what was done."""

    matches: tuple[str, ...] = ()
    """Features of behaviors: how many share the value of the candidate."""

    @property
    def of_items(self) -> list[str]:
        """Features of behaviors that the item table has, and nothing else."""
        return [
            name
            for name, one in self.behavior.items()
            if name in self.item and not one.column
        ]

    @property
    def of_events(self) -> dict[str, Feature]:
        """Features of behaviors that are their own."""
        return {n: f for n, f in self.behavior.items() if n not in self.item}

    def of_behavior(self, name: str) -> Feature:
        """Returns the feature that values of behaviors are encoded as."""
        return self.item.get(name) or self.behavior[name]

    def learned(self) -> dict[str, Feature]:
        """Returns each feature by the name of what Transform learns of it.

        That is ``user_<f>``, ``item_<f>``, ``context_<f>``, ``candidate_<f>``,
        and ``behavior_<f>`` of behaviors' own. What is learned is a
        vocabulary, boundaries of buckets, or mean and scale; nothing of
        hashed features and vectors.
        """
        groups = {
            "user": self.user,
            "item": self.item,
            "context": self.context,
            "candidate": self.candidate,
            "behavior": self.of_events,
        }
        return {
            f"{group}_{name}": feature
            for group, features in groups.items()
            for name, feature in features.items()
        }


class Log(Section):
    """Event logs, from which histories are made as of each request.

    Tables are ``impressions``, ``events``, ``users``, ``items`` and
    ``vectors``. A behavior is an event strictly before its request. Times are
    whole seconds, timestamps or dates.
    """

    tables: dict[
        Literal["impressions", "events", "users", "items", "vectors"], str
    ] = {}
    """Names of files other than those."""

    time: str = "time"
    """Column of impressions: when the item was shown."""

    request: Column = Column()
    """Column of impressions: equal for those of one request. Without it,
    impressions of a user at one time are a request."""

    event_time: str = "time"
    """Column of events: when it happened."""

    known_time: str = ""
    """Column of events: when it was known, if events come late."""

    action: str = ""
    """Column of events: what was done, a text."""

    keep: tuple[str, ...] = ()
    """Actions that are behaviors; by default all."""

    as_of: Literal["request", "day"] = "request"
    """Whether a history ends before the request, or before its day."""

    delay_s: int = pydantic.Field(default=0, ge=0)
    """Seconds that a history ends earlier, as it does in serving."""

    max_history: int = pydantic.Field(default=1000, ge=1)
    """Newest behaviors that are kept of a history."""

    timezone: str = "UTC"
    """Zone of days, and of times without a zone, such as Europe/Berlin."""

    train: tuple[datetime.date, datetime.date]
    """First and last day of the training impressions."""

    eval: tuple[datetime.date, datetime.date]
    """First and last day of the impressions that a model is judged by."""

    @pydantic.field_validator("timezone")
    @classmethod
    def _is_zone(cls, value: str) -> str:
        try:
            zoneinfo.ZoneInfo(value)
        except (KeyError, OSError, ValueError) as error:
            raise ValueError(
                "expected the name of a time zone, such as Europe/Berlin"
            ) from error
        return value

    @pydantic.model_validator(mode="after")
    def _in_order(self) -> Log:
        days = (*self.train, *self.eval)
        if list(days) != sorted(days) or self.train[1] == self.eval[0]:
            raise ValueError(
                "log: expected train: [first, last] and then eval: [first, "
                f"last] on later days. Received: {', '.join(map(str, days))}"
            )
        if self.keep and not self.action:
            raise ValueError(
                "log.keep: expected log.action, the column of the action. "
                "Received: none"
            )
        return self

    def seconds(self, split: str) -> tuple[int, int]:
        """Returns the first second of a split, and that after its last."""
        zone = zoneinfo.ZoneInfo(self.timezone)
        first, last = getattr(self, split)
        start, end = (
            datetime.datetime.combine(day, datetime.time(), zone)
            for day in (first, last + datetime.timedelta(1))
        )
        return int(start.timestamp()), int(end.timestamp())


class RankingSchema(Section):
    """One data set. Names in YAML are those of columns in the files."""

    name: str
    """For people."""

    version: Literal[1] = 1
    """Version of this form of declaration."""

    user: Column = Column()
    """Key of users, by default ``user_id``."""

    item: Column = Column()
    """Key of items, by default ``item_id``."""

    labels: dict[str, Label] = pydantic.Field({"click": Label()}, min_length=1)
    """What the ranker predicts, by name. The first one decides whether a
    model is good; behind the tables it is the click."""

    weight: Place | None = None
    """Column of impressions: what each counts in the loss, a number."""

    features: Features
    """Features by group."""

    history: Column = Column()
    """Items of the user's history, oldest first, by default
    ``behavior_item_ids``."""

    vectors: Column = Column()
    """Vectors of items, by default ``item_vector``."""

    text: str = ""
    """Column of the item table with texts that vectors are made of, instead
    of the table ``item_content``."""

    log: Log | None = None
    """Event logs, instead of tables with histories."""

    @pydantic.model_validator(mode="after")
    def _is_sound(self) -> RankingSchema:
        for problem in self._problems():
            raise ValueError(problem)
        return self

    def _problems(self) -> Iterator[str]:
        features = self.features
        for group, taken in _TAKEN.items():
            for name in getattr(features, group):
                if not _NAME.fullmatch(name) or name in taken:
                    yield (
                        f"features.{group}: expected names of small letters, "
                        "digits and _ that begin with a letter, none of "
                        f"{', '.join(sorted(taken))}. Received: {name!r}"
                    )
        seen: dict[str, str] = {}
        for group in ("item", "user", "context", "candidate"):
            for name in getattr(features, group):
                if name in seen:
                    yield (
                        f"features.{group}: expected other names than those "
                        f"of features.{seen[name]}. Received: {name!r} in both"
                    )
                seen[name] = group
        if not features.item:
            yield "features.item: expected at least one feature. Received: none"
        yield from self._behavior_problems(seen)
        yield from self._time_problems()
        if len(set(features.matches)) < len(features.matches):
            yield (
                "features.matches: expected each name once. Received: "
                f"{', '.join(features.matches)}"
            )
        for name in features.matches:
            for group in ("item", "candidate"):
                if f"{name}_matches" in getattr(features, group):
                    yield (
                        f"features.{group}: expected no name of a count of "
                        f"matches. Received: '{name}_matches'"
                    )
        for group in ("user", "item", "behavior"):
            for name, feature in getattr(features, group).items():
                if feature.training_only:
                    yield (
                        f"features.{group}.{name}.training_only: it is of "
                        "context and candidate features. Received: true"
                    )
        for group in ("context", "candidate"):
            for name, feature in getattr(features, group).items():
                if feature.training_only and not feature.is_index:
                    yield (
                        f"features.{group}.{name}.training_only: expected "
                        "categories or buckets. Received: "
                        f"type: {feature.type} without buckets"
                    )
        yield from self._label_problems()
        for table, columns in self.tables.items():
            held: dict[str, str] = {}
            for name, column in columns.items():
                other = held.get(column, "")
                if name == "action" and other.startswith("behavior_"):
                    continue  # It may be a feature of behaviors as well.
                if other:
                    yield (
                        f"table {table}: expected a column for each of "
                        f"{other} and {name}. Received: {column!r} twice"
                    )
                held[column] = name

    def _behavior_problems(self, seen: dict[str, str]) -> Iterator[str]:
        features = self.features
        for name, feature in features.behavior.items():
            key = f"features.behavior.{name}"
            group = seen.get(name)
            if group == "item":
                same = Feature(column=feature.column)
                if feature != same:
                    yield (
                        f"{key}: expected a column or nothing, as it is the "
                        f"item feature {name}. Received: "
                        f"{feature.model_dump(exclude_defaults=True)}"
                    )
                item = features.item[name]
                if not item.is_index or (item.many and feature.column):
                    yield (
                        f"{key}: expected an item feature of categories or "
                        "buckets, and without a column if it has many. "
                        f"Received: {item.model_dump(exclude_defaults=True)}"
                    )
            elif group:
                yield (
                    f"{key}: expected other names than those of "
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

    def _time_problems(self) -> Iterator[str]:
        allowed = {"context": ("hour", "weekday"), "behavior": ("since",)}
        for group in _TAKEN:
            for name, feature in getattr(self.features, group).items():
                if feature.time and (
                    not self.log or feature.time not in allowed.get(group, ())
                ):
                    yield (
                        f"features.{group}.{name}.time: expected hour or "
                        "weekday of context, or since of behaviors, with the "
                        f"section log. Received: {feature.time}"
                    )
                if feature.time and feature.column:
                    yield (
                        f"features.{group}.{name}: expected no column, as it "
                        f"is made from times. Received: {feature.column!r}"
                    )

    def _label_problems(self) -> Iterator[str]:
        for place, (name, label) in enumerate(self.labels.items()):
            if not _NAME.fullmatch(name) or (place and name == "click"):
                yield (
                    "labels: expected names of small letters, digits and _ "
                    "that begin with a letter; click is the first one's. "
                    f"Received: {name!r}"
                )
            if self.log and label.one_hot:
                yield (
                    f"labels.{name}.one_hot: expected false in logs. "
                    "Received: true"
                )

    @functools.cached_property
    def tables(self) -> dict[str, dict[str, str]]:
        """Names and columns of each table.

        Tables are ``samples``, ``users``, ``items``, ``vectors``, and
        ``events`` in logs.
        """
        user = {"user_id": self.user.column or "user_id"}
        item = {"item_id": self.item.column or "item_id"}
        samples = {
            name: label.column or given
            for (name, label), given in zip(
                self.label_names.items(), self.labels, strict=True
            )
        }
        samples |= {**user, **item}
        if self.weight:
            samples["weight"] = self.weight.column or "weight"
        given = self.features
        for group in ("context", "candidate"):
            own = getattr(given, group)
            own = {name: one for name, one in own.items() if not one.time}
            samples |= _columns(f"{group}_", own)
        users = {**user, **_columns("user_", given.user)}
        carried = {
            name: one
            for name, one in given.behavior.items()
            if name not in given.of_items and not one.time
        }
        events = {}
        if self.log is None:
            history = self.history.column or "behavior_item_ids"
            users["behavior_item_ids"] = history
            users |= _columns("behavior_", carried)
        else:
            log = self.log
            samples["time"] = log.time
            events = {**user, **item, "time": log.event_time}
            events |= _columns("behavior_", carried)
            for table, name, column in (
                (samples, "request_id", log.request.column),
                (events, "known_time", log.known_time),
                (events, "action", log.action),
            ):
                if column:
                    table[name] = column
        found = {
            "samples": samples,
            "users": users,
            "items": {**item, **_columns("item_", given.item)},
            "vectors": {
                **item,
                "item_vector": self.vectors.column or "item_vector",
            },
        }
        return {**found, "events": events} if events else found

    @property
    def label_names(self) -> dict[str, Label]:
        """Labels by their names behind the tables: click, label_<name>."""
        return {
            f"label_{name}" if place else "click": label
            for place, (name, label) in enumerate(self.labels.items())
        }

    def texts(self) -> dict[str, str]:
        """Returns names whose columns hold texts, and the field to hash as."""
        found: dict[str, str] = {}
        keys = {"user_id": self.user, "item_id": self.item}
        if self.log:
            keys["request_id"] = self.log.request
        found |= {n: n for n, one in keys.items() if one.type == "string"}
        if "item_id" in found:
            found["behavior_item_ids"] = "item_id"
        learned = self.features.learned()
        found |= {n: n for n, one in learned.items() if one.type == "string"}
        for name in self.features.behavior:
            if f"item_{name}" in found:
                found[f"behavior_{name}"] = f"item_{name}"
        return found

    @property
    def names(self) -> dict[str, list[str]]:
        """Names of the features by group, as in `Features`."""
        return {
            group: list(names)
            for group, names in self.features.model_dump().items()
        }

    def __hash__(self) -> int:
        return hash(self.digest())

    def digest(self) -> str:
        """Returns 16 hex digits of all that it declares, in its order."""
        text = json.dumps(self.model_dump(mode="json"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def yaml(self) -> str:
        """Returns the file that `load` reads."""
        import yaml

        values = self.model_dump(exclude_defaults=True)
        return yaml.safe_dump(values, sort_keys=False)


def _columns(prefix: str, features: dict[str, Feature]) -> dict[str, str]:
    return {
        prefix + name: feature.column or name
        for name, feature in features.items()
    }


def load(path: str | os.PathLike[str]) -> RankingSchema:
    """Reads a declaration; raises `ConfigError`, one line, naming the key."""
    file = pathlib.Path(path)
    return settings_file.parse(
        RankingSchema, settings_file.read(file), file, "see docs/own-data.md"
    )


@functools.cache
def preset(name: str) -> RankingSchema:
    """Returns one of the declarations that come with this package."""
    path = _FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in _FOLDER.glob("*.yaml")))
        raise ConfigError(f"schema: expected {known}. Received: {name!r}")
    return load(path)


def named(text: str) -> RankingSchema:
    """Returns the declaration of a file, or the preset of this name."""
    path = pathlib.Path(text)
    return load(path) if path.suffix or path.exists() else preset(text)


def beside(*folders: pathlib.Path) -> RankingSchema:
    """Returns the declaration in the first folder that has one.

    Data without one are in the form of Taobao-MM.
    """
    for folder in folders:
        if (folder / FILE_NAME).is_file():
            return load(folder / FILE_NAME)
    return preset("taobao_mm")
