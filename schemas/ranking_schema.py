"""The declaration of a ranking data set: its columns and its features.

Columns of files may have any name. Once read, a feature ``f`` has one name
everywhere: ``user_<f>`` for users, ``item_<f>`` for items (``candidate_<f>`` in
Examples), ``behavior_<f>`` for behaviors.
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
    """Event logs, from which the join cuts the history of each request.

    The tables are ``impressions``, ``events``, ``users``, ``items`` and
    ``vectors``. A behavior is an event strictly before its request. Times are
    whole seconds, timestamps or dates.
    """

    tables: dict[
        Literal["impressions", "events", "users", "items", "vectors"], str
    ] = {}
    """Names of files that differ from the names of their tables."""

    time: str = "time"
    """Column of impressions: when the item was shown."""

    request: Column = Column()
    """Column of impressions: the request. If it is not declared, impressions
    of one user at the same time form a request."""

    event_time: str = "time"
    """Column of events: when the event happened."""

    known_time: str = ""
    """Column of events: when the event became known, if events arrive late."""

    action: str = ""
    """Column of events: the action, a text."""

    keep: tuple[str, ...] = ()
    """Actions that count as behaviors; by default all of them."""

    as_of: Literal["request", "day"] = "request"
    """Whether a history ends at its request or at the start of that day."""

    delay_s: int = pydantic.Field(default=0, ge=0)
    """Seconds by which histories end earlier, to match the delay in serving."""

    max_history: int = pydantic.Field(default=1000, ge=1)
    """Length of a history; the newest behaviors are kept."""

    timezone: str = "UTC"
    """Time zone of days and of times without one, such as Europe/Berlin."""

    train: tuple[datetime.date, datetime.date]
    """First and last day of the training impressions."""

    eval: tuple[datetime.date, datetime.date]
    """First and last day of the evaluation impressions."""

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
                "log: expected train: [first, last] and eval: [first, last] "
                f"on later days. Received: {', '.join(map(str, days))}"
            )
        if self.keep and not self.action:
            raise ValueError(
                "log.keep: expected log.action to name a column as well. "
                "Received: none"
            )
        return self

    def seconds(self, split: str) -> tuple[int, int]:
        """Returns the first second of a split and the second after its last."""
        zone = zoneinfo.ZoneInfo(self.timezone)
        first, last = getattr(self, split)
        start, end = (
            datetime.datetime.combine(day, datetime.time(), zone)
            for day in (first, last + datetime.timedelta(1))
        )
        return int(start.timestamp()), int(end.timestamp())


class RankingSchema(Section):
    """The declaration of one data set."""

    name: str
    """Name of the data set, used in reports only."""

    version: Literal[1] = 1
    """Version of the declaration's format."""

    user: Column = Column()
    """Key of users, by default ``user_id``."""

    item: Column = Column()
    """Key of items, by default ``item_id``."""

    labels: dict[str, Label] = pydantic.Field({"click": Label()}, min_length=1)
    """What the ranker predicts, by name. The first label decides whether a
    model is good; once read, it is called ``click``."""

    weight: Place | None = None
    """Column of impressions: the weight of each in the loss."""

    features: Features
    """Features by group."""

    history: Column = Column()
    """Items of the user's history, oldest first, by default
    ``behavior_item_ids``."""

    vectors: Column = Column()
    """Vectors of items, by default ``item_vector``."""

    text: str = ""
    """Column of the item table with the texts that item vectors are computed
    from, instead of the table ``item_content``."""

    log: Log | None = None
    """Event logs, instead of tables with histories."""

    @pydantic.model_validator(mode="after")
    def _is_sound(self) -> RankingSchema:
        for problem in rules.problems(self):
            raise ValueError(problem)
        return self

    @functools.cached_property
    def tables(self) -> dict[str, dict[str, str]]:
        """For each table, the column in the file by its name in the code.

        The tables are ``samples``, ``users``, ``items``, ``vectors`` and, for
        logs, ``events``.
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
        """Labels by their names in the code: ``click``, ``label_<name>``."""
        return {
            f"label_{name}" if place else "click": label
            for place, (name, label) in enumerate(self.labels.items())
        }

    def texts(self) -> dict[str, str]:
        """Returns, by name, the field under which a text column is hashed."""
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
        """Names of the features by group, in the order of `Features`."""
        return {
            group: list(names)
            for group, names in self.features.model_dump().items()
        }

    def __hash__(self) -> int:
        return hash(self.digest())

    def digest(self) -> str:
        """Returns 16 hex digits that identify the content and its order."""
        text = json.dumps(self.model_dump(mode="json"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def yaml(self) -> str:
        """Returns the text of a file that `load` reads."""
        import yaml

        values = self.model_dump(exclude_defaults=True)
        return yaml.safe_dump(values, sort_keys=False)


def _columns(prefix: str, features: dict[str, Feature]) -> dict[str, str]:
    return {
        prefix + name: feature.column or name
        for name, feature in features.items()
    }


def load(path: str | os.PathLike[str]) -> RankingSchema:
    """Reads a declaration; a `ConfigError` names the key in one line."""
    values = settings_file.read(path)
    if values.get("weight", "") is None:  # `weight:` names the column weight.
        values["weight"] = {}
    return settings_file.parse(
        RankingSchema, values, path, "see docs/own-data.md"
    )


@functools.cache
def preset(name: str) -> RankingSchema:
    """Returns a declaration of this package; `ConfigError` if there is none."""
    path = _FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in _FOLDER.glob("*.yaml")))
        raise ConfigError(f"schema: expected {known}. Received: {name!r}")
    return load(path)


def named(text: str) -> RankingSchema:
    """Returns the declaration in a file, or else the preset of that name."""
    path = pathlib.Path(text)
    return load(path) if path.suffix or path.exists() else preset(text)


def beside(*folders: pathlib.Path) -> RankingSchema:
    """Returns the declaration in the first folder that has one.

    If there is none, the data have the columns of Taobao-MM.
    """
    for folder in folders:
        if (folder / FILE_NAME).is_file():
            return load(folder / FILE_NAME)
    return preset("taobao_mm")
