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
import zoneinfo
from typing import Literal

import pydantic

from schemas import rules, settings_file
from schemas.columns import Column, Feature, Features, Label, Place
from schemas.settings_file import ConfigError, Section

FILE_NAME = "schema.yaml"
_FOLDER = pathlib.Path(__file__).parent


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
        for problem in rules.problems(self):
            raise ValueError(problem)
        return self

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
