"""Guesses features, labels and other columns from the first rows of tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from muse_tools.datasets import table_roles
from muse_tools.datasets.arrow_lists import values_of
from muse_tools.datasets.samples import Column, Sample
from muse_tools.datasets.table_roles import Roles, matches

_REQUEST = "request|session|page|visit|search_?id|query_?id|impression_?id"
_REQUEST += "|slate|basket"
_ACTION = "^(action|event|kind|type|verb|event_type|action_type|event_name)$"
_POSITION = "pos(ition)?$|^rank|slot|place$"
_WEIGHT = "weight$|importance"
_NUMBERS = ("float", "vector")
_MOST_CATEGORIES = 20_000
_MOST_VALUES = 20
_FEW_CATEGORIES = 100


class Guesses:
    """Declarations for the columns that are neither keys nor times.

    Attributes:
        questions: decisions that are left to the user.
        text: column of items that describes them, such as a title; or empty.
        weight: column of impressions with their weights, or empty.
        request: column of impressions with the id of their request.
        action: column of events with the action.
        history: column of users with the items of ready-made histories.
    """

    def __init__(self, roles: Roles) -> None:
        self.questions: list[str] = []
        self.text = self.weight = ""
        self.request: Column | None = None
        self.action: Column | None = None
        self.history: Column | None = None
        self._roles = roles
        self._names: set[str] = set()
        self._groups: dict[str, dict[str, Any]] = {
            group: {}
            for group in ("user", "item", "context", "candidate", "behavior")
        }
        self._labels = dict(self._find_labels())
        self._find_items()
        if roles.ready_made:
            self._find_histories()
        elif roles.users:
            self._add_all("user", roles.users)
        self._find_impressions()
        if not roles.ready_made:
            self._find_events()

    def labels(self) -> dict[str, Any]:
        """Returns declarations of labels by name, the main label first."""
        return self._labels

    def features(self) -> dict[str, dict[str, Any]]:
        """Returns declarations of features by group and name."""
        return self._groups

    def matches(self) -> list[str]:
        """Returns the features that behaviors share with candidates."""
        return [
            n for n in self._groups["behavior"] if n in self._groups["item"]
        ]

    def _keys(self) -> list[str]:
        return [self._roles.user, self._roles.item]

    def _rest(self, sample: Sample, *others: str) -> Iterator[Column]:
        """Yields columns that are not keys, times or one of the others."""
        time = table_roles.time_of(sample)
        used = {*self._keys(), *others, time.name if time else ""}
        for name, column in sample.columns.items():
            if name not in used and column.kind not in ("empty",):
                yield column

    def _find_labels(self) -> Iterator[tuple[str, Any]]:
        shown = self._roles.impressions
        label = table_roles.label_of(shown, self._keys()) if shown else None
        if label is None:
            return
        self._label = label.name
        span = label.span() if not label.is_list else None
        if label.is_list:
            yield "click", {"column": label.name, "one_hot": True}
        elif span and (int(span[0]), int(span[1])) != (0, 1):
            least = np.quantile(values_of(label.values.drop_null()), 0.6)
            self.questions.append(
                f"labels: {label.name} is from {span[0]} to {span[1]}. From "
                "which value on is it a success?"
            )
            yield "click", {"column": label.name, "at_least": float(least)}
        else:
            yield "click", label.name

    def _find_items(self) -> None:
        items = self._roles.items
        if items is None:
            self.questions.append(
                "items: no table has one row for each item. One is needed, "
                "with the key and a feature, such as a category"
            )
            return
        self._add_all("item", items)
        if not self._groups["item"]:
            self.questions.append(
                f"features.item: no column of {items.name} looks like a "
                "feature. At least one is needed"
            )
        for name, feature in self._groups["item"].items():
            is_category = (feature or {}).get("type") not in _NUMBERS
            if is_category and len(self._groups["behavior"]) < 3:
                self._groups["behavior"][name] = None
        if self._roles.ready_made:
            self._groups["behavior"] = {}

    def _add_all(self, group: str, sample: Sample) -> None:
        for column in self._rest(sample):
            self._add(group, column, sample.name)

    def _add(self, group: str, column: Column, table: str, **more: Any) -> None:
        found = self._feature(group, column, table)
        if found is None:
            return
        name = self._name(group, column.name)
        feature = {**found, **more}
        if name != column.name:
            feature = {"column": column.name, **feature}
        self._groups[group][name] = feature or None

    def _name(self, group: str, column: str) -> str:
        """Returns a name for a column that no group has yet."""
        text = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", column).lower()
        text = re.sub("[^a-z0-9_]+", "_", text).strip("_")
        taken = "ids?|item_ids|rows|mask|popularity|features|numbers|vector"
        taken += "|times?|.*matches"
        if not re.match("[a-z]", text) or re.fullmatch(taken, text):
            text = f"of_{text}" if text else "of_it"
        while text in self._names:
            text = f"{group}_{text}"
        self._names.add(text)
        return text

    def _feature(
        self, group: str, column: Column, table: str
    ) -> dict[str, Any] | None:
        """Returns the declaration of a column; None if it is not a feature."""
        place, kind = f"{table}.{column.name}", column.kind
        if column.is_list:
            return self._list_feature(column, place)
        if column.distinct < 2:
            self.questions.append(
                f"{place} has only one value in the rows looked at: left out"
            )
        elif kind == "bool":
            self.questions.append(
                f"{place} (bool) is left out. In CSV it is a feature with "
                "{type: string}; in other files, write it as texts first"
            )
        elif kind in ("moment", "other"):
            self.questions.append(
                f"{place} ({column.values.type}) cannot be a feature. "
                "Features are int64, texts, numbers, and lists of them"
            )
        elif kind == "float":
            return self._number(column)
        elif kind == "int":
            if column.distinct > _FEW_CATEGORIES and column.share > 0.3:
                if not matches("id$", column.name):
                    return {"type": "float"}
                return {"hashed": 10_000}
            return {}
        elif self._is_category(column):
            return {"type": "string"}
        elif group == "item" and not self.text:
            self.text = column.name
        else:
            self.questions.append(
                f"{place} differs in nearly every row: left out"
            )
        return None

    def _is_category(self, column: Column) -> bool:
        few = column.distinct <= max(_FEW_CATEGORIES, len(column.values) // 10)
        if column.share > 0.8 and len(column.values) > 5:
            return False
        return few or column.distinct <= _MOST_CATEGORIES

    def _number(self, column: Column) -> dict[str, Any]:
        values = values_of(column.values.drop_null().cast(pa.float64()))
        values = values[np.isfinite(values)]
        whole = bool((values == np.trunc(values)).all())
        if whole and column.distinct <= _FEW_CATEGORIES and len(values):
            return {}  # pandas writes whole numbers as floats if some miss.
        skewed = len(values) and values.min() >= 0
        skewed = skewed and values.max() > 50 * max(np.median(values), 1e-9)
        return {"type": "float", "log": True} if skewed else {"type": "float"}

    def _list_feature(
        self, column: Column, place: str
    ) -> dict[str, Any] | None:
        how = {"separator": column.separator} if column.separator else {}
        if column.kind == "float":
            if column.width:
                return {"type": "vector", "dim": column.width, **how}
            self.questions.append(
                f"{place} has lists of numbers with unequal lengths: left out"
            )
            return None
        lengths = column.lengths
        if column.kind not in ("int", "text") or lengths is None:
            self.questions.append(
                f"{place} ({column.values.type}) cannot be a feature"
            )
            return None
        most = int(np.ceil(np.quantile(lengths, 0.95))) if len(lengths) else 1
        kind = {"type": "string"} if column.kind == "text" else {}
        return {**kind, "many": min(max(1, most), _MOST_VALUES), **how}

    def _find_histories(self) -> None:
        users = self._roles.users
        if users is None:
            return
        lists = [c for c in self._rest(users) if c.is_list]
        ids = [c for c in lists if c.kind in ("int", "text")]
        named = [c for c in ids if matches("item|product|histor|read", c.name)]
        named.sort(key=lambda c: -c.distinct)
        self.history = next(iter([*named, *ids]), None)
        for column in self._rest(users):
            if not column.is_list:
                self._add("user", column, users.name)
            elif column is not self.history and self._is_aligned(column):
                self._add_behavior(column)

    def _is_aligned(self, column: Column) -> bool:
        """Returns whether each list is as long as the history beside it."""
        lengths = self.history.lengths if self.history else None
        if lengths is None or column.lengths is None:
            return False
        return np.array_equal(column.lengths, lengths)

    def _add_behavior(self, column: Column) -> None:
        """Adds lists beside histories, as an item feature if one fits."""
        items = self._groups["item"]
        for name, feature in items.items():
            one_value = not {"many", "dim"} & (feature or {}).keys()
            is_number = (feature or {}).get("type") == "float"
            if name in column.name and one_value and not is_number:
                self._groups["behavior"][name] = column.name
                return
        if column.kind == "float":
            self._add_own(column, {"type": "float", "buckets": 16})
        else:
            kind = {"type": "string"} if column.kind == "text" else {}
            self._add_own(column, kind)

    def _add_own(self, column: Column, feature: dict[str, Any]) -> None:
        name = self._name("behavior", column.name)
        if name != column.name:
            feature = {"column": column.name, **feature}
        self._groups["behavior"][name] = feature or None

    def _find_impressions(self) -> None:
        shown = self._roles.impressions
        if shown is None:
            return
        label = getattr(self, "_label", "")
        same = shown is self._roles.events
        columns = [*self._rest(shown, label)]
        requests = [
            c
            for c in columns
            if matches(_REQUEST, c.name) and table_roles.is_key(c)
        ]
        if requests and not self._roles.ready_made:
            self.request = requests[0]
        for column in columns:
            if column is self.request:
                continue
            if matches(_WEIGHT, column.name) and column.kind == "float":
                self.weight = column.name
            elif table_roles.label_of(
                Sample("", {column.name: column}, 0, True), []
            ) and matches("click|order|bought|purchas|like|label", column.name):
                name = self._name("label", column.name)
                self._labels[name] = column.name
            elif matches(_POSITION, column.name) and column.kind == "int":
                self._add("candidate", column, shown.name, training_only=True)
            elif not same and not table_roles.is_score(column):
                group = self._group(shown, column)
                self._add(group, column, shown.name)
            else:
                self.questions.append(
                    f"{shown.name}.{column.name} is not used. Is it known "
                    "before the item is shown (a context or candidate "
                    "feature), or only after (a label)?"
                )

    def _group(self, shown: Sample, column: Column) -> str:
        """Returns the group of a column: ``context`` if equal per request."""
        user = shown.columns.get(self._roles.user)
        keys = (
            [self.request]
            if self.request
            else [user, table_roles.time_of(shown)]
        )
        known = [key.values.to_pylist() for key in keys if key]
        if len(known) < len(keys):
            return "candidate"
        first: dict[tuple, str] = {}
        values = map(str, column.values.to_pylist())
        for value, *row in zip(values, *known, strict=True):
            if first.setdefault(tuple(row), value) != value:
                return "candidate"
        return "context"

    def _find_events(self) -> None:
        events = self._roles.events
        if events is None or events is self._roles.impressions:
            return
        columns = [*self._rest(events)]
        actions = [
            c
            for c in columns
            if c.kind == "text"
            and c.distinct <= 50
            and (matches(_ACTION, c.name) or len(columns) == 1)
        ]
        self.action = next(iter(actions), None)
        of_items = self._roles.items.columns if self._roles.items else {}
        for column in columns:
            known = column.name in of_items or matches(_REQUEST, column.name)
            if known or column.is_list or column.distinct < 2:
                continue
            if column.kind == "float" or (
                column.kind == "int" and column.distinct > _FEW_CATEGORIES
            ):
                self._add_own(column, {"type": "float", "buckets": 16})
            elif column.kind == "int":
                self._add_own(column, {})
            elif column.kind == "text" and self._is_category(column):
                self._add_own(column, {"type": "string"})
