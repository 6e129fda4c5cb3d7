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
# What a prefix and these would make is the name of something else.
_TAKEN = {
    "user": {"id"},
    "item": {"id", "ids", "rows", "vector", "item_ids", "mask", "popularity"},
    "behavior": {"item_ids", "rows", "mask"},
}


class Column(Section):
    """Where values stand; in YAML the name alone is enough."""

    column: str = ""
    """Name in the file; by default that of the feature."""

    type: Literal["int64", "string"] = "int64"
    """Type in the file. A text is its `schemas.hashing.stable_id` behind it."""

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


class Label(Column):
    """What the ranker predicts, by default the column ``click``."""

    one_hot: bool = False
    """Whether the column holds [1 - click, click] instead of 0 or 1."""

    at_least: float | None = None
    """The click is whether the column is at least this, such as a rating."""


class Features(Section):
    """Features by kind, each with its column."""

    user: dict[str, Column] = {}
    """Of users."""

    item: dict[str, Column]
    """Of items, as candidates and in histories."""

    behavior: dict[str, Column] = {}
    """Of each behavior: lists as long as the history. Each is the value of
    the item feature of this name."""

    matches: tuple[str, ...] = ()
    """Features of behaviors: how many share the value of the candidate."""


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

    request: str = ""
    """Column of impressions: int64, equal for those of one request. Without
    it, impressions of a user at one time are a request."""

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

    label: Label = Label()
    """Whether the user clicked."""

    features: Features
    """Features of users, items and behaviors."""

    history: Column = Column()
    """Items of the user's history, oldest first, by default
    ``behavior_item_ids``."""

    vectors: Column = Column()
    """Vectors of items, by default ``item_vector``."""

    log: Log | None = None
    """Event logs, instead of tables with histories."""

    @pydantic.model_validator(mode="after")
    def _is_sound(self) -> RankingSchema:
        for problem in self._problems():
            raise ValueError(problem)
        return self

    def _problems(self) -> Iterator[str]:
        features = self.features
        for kind, taken in _TAKEN.items():
            for name in getattr(features, kind):
                if not _NAME.fullmatch(name) or name in taken:
                    yield (
                        f"features.{kind}: expected names of small letters, "
                        "digits and _ that begin with a letter, none of "
                        f"{', '.join(sorted(taken))}. Received: {name!r}"
                    )
        for name in [*features.user]:
            if name in features.item:
                yield (
                    "features.user: expected other names than those of "
                    f"features.item. Received: {name!r} in both"
                )
        if not features.item:
            yield "features.item: expected at least one feature. Received: none"
        for kind, names, known in (
            ("behavior", features.behavior, features.item),
            ("matches", features.matches, features.behavior),
        ):
            for name in names:
                if name not in known:
                    whose = "item" if kind == "behavior" else "behavior"
                    yield (
                        f"features.{kind}: expected names of "
                        f"features.{whose}, {', '.join(known) or 'none'}. "
                        f"Received: {name!r}"
                    )
        if len(set(features.matches)) < len(features.matches):
            yield (
                "features.matches: expected each name once. Received: "
                f"{', '.join(features.matches)}"
            )
        for name in features.matches:
            if f"{name}_matches" in features.item:
                yield (
                    "features.item: expected no name of a count of matches. "
                    f"Received: '{name}_matches'"
                )
        if self.log and self.label.one_hot:
            yield "label.one_hot: expected false in logs. Received: true"
        for table, columns in self.tables.items():
            seen: dict[str, str] = {}
            for name, column in columns.items():
                if column in seen:
                    yield (
                        f"table {table}: expected a column for each of "
                        f"{seen[column]} and {name}. Received: {column!r} twice"
                    )
                seen[column] = name

    @functools.cached_property
    def tables(self) -> dict[str, dict[str, str]]:
        """Names and columns of each table.

        Tables are ``samples``, ``users``, ``items``, ``vectors``, and
        ``events`` in logs.
        """
        user = {"user_id": self.user.column or "user_id"}
        item = {"item_id": self.item.column or "item_id"}
        samples = {"click": self.label.column or "click", **user, **item}
        users = {**user, **_columns("user_", self.features.user)}
        events = {}
        if self.log is None:
            history = self.history.column or "behavior_item_ids"
            users["behavior_item_ids"] = history
            users |= _columns("behavior_", self.features.behavior)
        else:
            log, given = self.log, self.features.behavior
            samples["time"] = log.time
            events = {**user, **item, "time": log.event_time}
            own = {n: one for n, one in given.items() if one.column}
            events |= _columns("behavior_", own)
            for table, name, column in (
                (samples, "request_id", log.request),
                (events, "known_time", log.known_time),
                (events, "action", log.action),
            ):
                if column:
                    table[name] = column
        found = {
            "samples": samples,
            "users": users,
            "items": {**item, **_columns("item_", self.features.item)},
            "vectors": {
                **item,
                "item_vector": self.vectors.column or "item_vector",
            },
        }
        return {**found, "events": events} if events else found

    def of_items(self) -> list[str]:
        """Returns the features of behaviors that are their items' own.

        Event logs hold those with a column.
        """
        given = self.features.behavior
        return [n for n, one in given.items() if self.log and not one.column]

    def texts(self) -> dict[str, str]:
        """Returns names whose columns hold texts, and the field to hash as."""
        kinds = {"user_id": self.user, "item_id": self.item}
        kinds |= {f"user_{n}": one for n, one in self.features.user.items()}
        kinds |= {f"item_{n}": one for n, one in self.features.item.items()}
        found = {n: n for n, one in kinds.items() if one.type == "string"}
        if "item_id" in found:
            found["behavior_item_ids"] = "item_id"
        for name in self.features.behavior:
            if f"item_{name}" in found:
                found[f"behavior_{name}"] = f"item_{name}"
        return found

    @property
    def names(self) -> dict[str, list[str]]:
        """Names of the features by kind: user, item, behavior, matches."""
        return {
            kind: list(names)
            for kind, names in self.features.model_dump().items()
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


def _columns(prefix: str, features: dict[str, Column]) -> dict[str, str]:
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
