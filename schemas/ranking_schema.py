"""The declaration of a ranking data set: its columns and its features.

A feature ``f`` has one name everywhere behind the raw tables: ``user_<f>`` of
users, ``item_<f>`` of items (``candidate_<f>`` in Examples), ``behavior_<f>``
of behaviors. Columns of files may be called anything.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import pathlib
import re
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

    @pydantic.model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        if value is None:
            return {}
        return {"column": value} if isinstance(value, str) else value


class Label(Column):
    """What the ranker predicts, by default the column ``click``."""

    one_hot: bool = False
    """Whether the column holds [1 - click, click] instead of 0 or 1."""


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
        for table, columns in self._tables().items():
            seen: dict[str, str] = {}
            for name, column in columns.items():
                if column in seen:
                    yield (
                        f"table {table}: expected a column for each of "
                        f"{seen[column]} and {name}. Received: {column!r} twice"
                    )
                seen[column] = name

    def _tables(self) -> dict[str, dict[str, str]]:
        return {
            "samples": self.samples,
            "user_features": self.users,
            "item_features": self.items,
            "vectors": self.embeddings,
        }

    @property
    def samples(self) -> dict[str, str]:
        """Name to column of the impressions."""
        return {
            "click": self.label.column or "click",
            **self._key("user_id", self.user),
            **self._key("item_id", self.item),
        }

    @property
    def users(self) -> dict[str, str]:
        """Name to column of users, their features and histories."""
        return {
            **self._key("user_id", self.user),
            **_columns("user_", self.features.user),
            **self._key("behavior_item_ids", self.history),
            **_columns("behavior_", self.features.behavior),
        }

    @property
    def items(self) -> dict[str, str]:
        """Name to column of items and their features."""
        return {
            **self._key("item_id", self.item),
            **_columns("item_", self.features.item),
        }

    @property
    def embeddings(self) -> dict[str, str]:
        """Name to column of items and their vectors."""
        return {
            **self._key("item_id", self.item),
            **self._key("item_vector", self.vectors),
        }

    @staticmethod
    def _key(name: str, column: Column) -> dict[str, str]:
        return {name: column.column or name}

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
        """Returns 16 hex digits of all that it declares."""
        text = json.dumps(self.model_dump(), sort_keys=True)
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
