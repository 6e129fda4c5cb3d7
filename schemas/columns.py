"""Columns, labels and features of a declaration."""

from __future__ import annotations

import datetime
from typing import Any, Literal

import pydantic

from schemas.settings_file import Section

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
