"""Columns, labels and features of a declaration."""

from __future__ import annotations

import datetime
from typing import Any, Literal

import pydantic

from schemas.settings_file import Section

_SINCE_BUCKETS = 16


class Place(Section):
    """The column that holds some values; in YAML its name alone is enough."""

    column: str = ""
    """Name of the column in the file; the default is the declared name."""

    separator: str = ""
    """Separates the values of lists that are stored as text."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        if value is None:
            return {}
        if isinstance(value, (bool, int, float, datetime.date)):
            raise ValueError(
                "expected the name of a column, quoted if YAML would read it "
                f"as another type. Received: {value}"
            )
        return {"column": value} if isinstance(value, str) else value


class Column(Place):
    """A column of keys or ids."""

    type: Literal["int64", "string"] = "int64"
    """Type in the file; a string becomes its `schemas.hashing.stable_id`."""


class Label(Place):
    """What the ranker predicts."""

    one_hot: bool = False
    """Whether the column holds lists [1 - label, label], not 0 or 1."""

    at_least: float | None = None
    """Threshold for a column of scores: from this value on, the label is 1."""

    loss_weight: float = pydantic.Field(default=1.0, gt=0)
    """Weight of this label's loss in the sum over all labels."""


class Feature(Place):
    """One feature; its ``kind`` says how its values are encoded.

    Categories (``type`` int64 or string) become indices of a vocabulary or of
    ``hashed`` buckets. Numbers (``type`` float) are standardized, or become
    indices of ``buckets``. Missing values have their own index, or a flag of
    0.
    """

    type: Literal["int64", "string", "float", "vector"] = "int64"
    """Type in the file; a string becomes its `schemas.hashing.stable_id`."""

    many: int = pydantic.Field(default=0, ge=0, le=1000)
    """For lists of categories: how many values, from the first, are used."""

    hashed: int = pydantic.Field(default=0, ge=0)
    """For categories: number of hash buckets, instead of a vocabulary."""

    buckets: int = pydantic.Field(default=0, ge=0, le=1000)
    """For numbers: number of quantiles, each with an embedding."""

    log: bool = False
    """For numbers without buckets: use the logarithm, sign(x) log(1 + |x|)."""

    dim: int = pydantic.Field(default=0, ge=0)
    """For vectors: number of elements."""

    training_only: bool = False
    """For context and candidate features that are unknown in serving, such as
    the position: missing there, and in a part of the training requests."""

    time: Literal["", "hour", "weekday", "since"] = ""
    """Computed from the times of a log. For context: ``hour`` (0 to 23) or
    ``weekday`` (0 is Monday), in ``log.timezone``. For behaviors: ``since``,
    the seconds until the request, by default in 16 buckets."""

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
                    f"{key} needs {what}. Received: type: {self.type}"
                )
        if self.type == "vector" and not self.dim:
            raise ValueError(
                "a vector needs dim, its number of elements. Received: none"
            )
        if self.separator and not (self.many or self.dim):
            raise ValueError(
                "separator is for lists only: features with many, vectors. "
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
        """How values are encoded: the first three as indices."""
        if self.type == "vector":
            return "vector"
        if self.type == "float":
            return "buckets" if self.buckets else "number"
        return "hashed" if self.hashed else "vocabulary"

    @property
    def is_index(self) -> bool:
        """Whether the model gets indices to embed instead of numbers."""
        return self.kind in ("vocabulary", "hashed", "buckets")

    @property
    def dtype(self) -> Literal["int64", "float32"]:
        """Type of the raw values once read; NaN or 0 stands for missing."""
        return "float32" if self.type in ("float", "vector") else "int64"

    @property
    def raw_width(self) -> int:
        """Number of raw values per user, item, request or behavior."""
        return self.dim or self.many or 1

    @property
    def width(self) -> int:
        """Number of encoded values: indices, or numbers and a flag."""
        return self.raw_width if self.is_index else self.raw_width + 1


class Features(Section):
    """Features by group; names are unique, but behaviors may repeat items'."""

    user: dict[str, Feature] = {}
    """Features of users."""

    item: dict[str, Feature]
    """Features of items, both as candidates and in histories."""

    context: dict[str, Feature] = {}
    """Features of requests, read from columns of the impressions."""

    candidate: dict[str, Feature] = {}
    """Features of single impressions, such as the position, read from columns
    of the impressions."""

    behavior: dict[str, Feature] = {}
    """Features of behaviors. The name of an item feature stands for that
    feature: its value in the item table or, with a column, its value at the
    time of the event. Any other name is an event's own, such as the action."""

    matches: tuple[str, ...] = ()
    """Item features: count the behaviors that share the candidate's value."""

    @property
    def of_items(self) -> list[str]:
        """Behavior features whose values come from the item table."""
        return [
            name
            for name, one in self.behavior.items()
            if name in self.item and not one.column
        ]

    @property
    def of_events(self) -> dict[str, Feature]:
        """Behavior features that are not features of items."""
        return {n: f for n, f in self.behavior.items() if n not in self.item}

    def of_behavior(self, name: str) -> Feature:
        """Returns the feature whose encoding a behavior feature uses."""
        return self.item.get(name) or self.behavior[name]

    def learned(self) -> dict[str, Feature]:
        """Returns each feature by the name under which Transform learns it.

        The names are ``user_<f>``, ``item_<f>``, ``context_<f>``,
        ``candidate_<f>`` and, for `of_events`, ``behavior_<f>``. Transform
        learns a vocabulary, bucket boundaries, or mean and scale; for hashed
        features and vectors it learns nothing.
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
