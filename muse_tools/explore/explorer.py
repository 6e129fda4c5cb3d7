"""The content of the explorer's page as JSON values.

Ids are strings, because a browser's numbers cannot hold every int64.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from muse_tools.datasets.errors import DataError
from muse_tools.explore import searches
from muse_tools.explore.data import ExplorerData
from muse_tools.explore.model import ExplainedModel, ItemViews

_LISTED = 200


class NotKnown(DataError):
    """A user or an item does not exist."""


class Explorer:
    """Explains how a model scores candidates for the users of a data set."""

    def __init__(self, model: ExplainedModel, data: ExplorerData) -> None:
        self._model, self._data = model, data
        # Calls are serialized, because they share the model and its caches.
        self._lock = threading.Lock()

    def about(self) -> dict[str, Any]:
        """Returns facts about the model and the data set."""
        return {
            "model": self._model.kind,
            "version": self._model.folder.name,
            "k": self._model.k,
            "max_history": self._model.max_history,
            "items": self._model.num_items,
            "users": self._data.num_users,
            "split": self._data.split,
            "data_set": self._data.declared.name,
            "labels": self._model.labels,
            "category": self._model.category,
        }

    def users(self, query: str) -> dict[str, Any]:
        """Returns users whose id starts with `query`, longest history first."""
        with self._lock:
            found = self._data.find_users(query, _LISTED)
            return {
                "users": [
                    {**user._asdict(), "user_id": str(user.user_id)}
                    for user in found
                ],
                "listed": len(self._data.listed),
                "total": self._data.num_users,
            }

    def user(self, user_id: int) -> dict[str, Any]:
        """Returns a user's impressions, best score first."""
        with self._lock:
            user = self._user(user_id)
            shown = self._data.impressions(user_id)
            items = [impression.item_id for impression in shown]
            scores = self._model.scores(user, items)
            rows = self._named(items)
            for row, impression, score in zip(rows, shown, scores, strict=True):
                row["clicked"] = impression.clicked
                row["times"] = impression.times
                row["click_probability"] = float(score)
            return {
                "user_id": str(user_id),
                "features": self._data.words.of_all("user", user["user"]),
                "history_length": len(user["behavior_item_ids"]),
                "impressions": sorted(
                    rows, key=lambda row: -row["click_probability"]
                ),
            }

    def items(self, query: str) -> dict[str, Any]:
        """Returns items of the model whose name contains `query`."""
        with self._lock:
            found = self._data.find_items(query, _LISTED)
            wanted = _as_id(query)
            if wanted is not None and wanted not in found:
                found.insert(0, wanted)
            rows = self._model.rows(np.array(found, np.int64))
            known = [i for i, row in zip(found, rows, strict=True) if row]
            return {"items": self._named(known)}

    def explain(self, user_id: int, item_id: int) -> dict[str, Any]:
        """Returns the behaviors that three searches find for a candidate."""
        with self._lock:
            user = self._user(user_id)
            if not self._model.rows([item_id])[0]:
                raise NotKnown(
                    "UNKNOWN_ITEM",
                    f"the model has no item {item_id}.",
                    "choose an item of the list, or search one by its name.",
                )
            return self._explained(user, item_id)

    def _user(self, user_id: int) -> dict[str, Any]:
        try:
            return self._data.user(user_id)
        except DataError as error:
            if error.code != "UNKNOWN_USER":
                raise
            example = self._data.listed[0].user_id
            raise NotKnown(
                error.code,
                f"there is no user {user_id} in the {self._data.split} split.",
                f"choose a user of the list, for example {example}.",
            ) from error

    def _explained(self, user: dict[str, Any], item_id: int) -> dict[str, Any]:
        history = np.asarray(user["behavior_item_ids"], np.int64)
        model = self._model
        answer = {
            name: value[0]
            for name, value in model.explain(user, [item_id]).items()
        }
        candidate = model.candidate(item_id)
        behaviors = model.behaviors(history, user["behaviors"])
        mask = model.counted(history)
        by_id = searches.cosines(candidate.embeddings[0], behaviors.embeddings)
        found = answer["behavior_indices"] >= 0
        lists = {
            "model": answer["behavior_indices"][found],
            "sim_hard": _of_category(candidate, behaviors, mask, model.k),
            "sim_soft": searches.by_cosine(by_id, mask, model.k),
        }
        num_tiers = len(answer["tiers"])
        shown = {
            key: self._behaviors(positions, user, candidate, behaviors)
            for key, positions in lists.items()
        }
        for row, similarity, attention in zip(
            shown["model"],
            answer["similarities"][found],
            answer["attention"][found],
            strict=True,
        ):
            row["similarity"] = float(similarity)
            row["attention"] = float(attention)
        for row in shown["sim_soft"]:
            row["id_cosine"] = float(by_id[row["position"]])
        members = {key: set(places.tolist()) for key, places in lists.items()}
        for key, rows in shown.items():
            for row in rows:
                row["tier"] = _tier(row["similarity"], num_tiers)
                row["also"] = [
                    other
                    for other, places in members.items()
                    if other != key and row["position"] in places
                ]
        return {
            "user_id": str(user["user_id"]),
            "history_length": len(history),
            "counted": int(mask.sum()),
            "candidate": {
                **self._named([item_id])[0],
                "features": self._data.words.items([item_id])[0],
                "click_probability": float(answer["click_probability"]),
                "probabilities": {
                    label: float(answer[name])
                    for label in model.labels[1:]
                    if (name := f"{label}_probability") in answer
                },
                "has_vector": bool(candidate.codes.any()),
            },
            "tiers": [
                {
                    "low": -1 + 2 * tier / num_tiers,
                    "high": -1 + 2 * (tier + 1) / num_tiers,
                    "count": int(count),
                }
                for tier, count in enumerate(answer["tiers"])
            ],
            "lists": shown,
            "common": {
                f"{one}+{other}": len(members[one] & members[other])
                for one, other in (
                    ("model", "sim_hard"),
                    ("model", "sim_soft"),
                    ("sim_hard", "sim_soft"),
                )
            },
        }

    def _behaviors(
        self,
        positions: npt.NDArray[Any],
        user: dict[str, Any],
        candidate: ItemViews,
        behaviors: ItemViews,
    ) -> list[dict[str, Any]]:
        """Returns a row for each position, with its multimodal cosine.

        ``own`` has the behavior's own features (not those of its item) and
        its time, if that is known.
        """
        history, words = user["behavior_item_ids"], self._data.words
        values = searches.cosines(
            candidate.codes[0], behaviors.codes[positions]
        )
        rows = self._named(history[positions].tolist())
        for row, position, value in zip(rows, positions, values, strict=True):
            row |= {
                "position": int(position),
                "ago": len(history) - int(position),
                "similarity": float(value),
                "own": {
                    name: text
                    for name, values in user["behaviors"].items()
                    if (text := words.behavior(name, values[position].item()))
                },
            }
            if "times" in user:
                row["time"] = words.time(int(user["times"][position]))
        return rows

    def _named(self, item_ids: Sequence[int]) -> list[dict[str, Any]]:
        return [
            {"item_id": str(item), "name": name, "category": category}
            for item, (name, category) in zip(
                item_ids, self._data.names(item_ids), strict=True
            )
        ]


def _of_category(
    candidate: ItemViews,
    behaviors: ItemViews,
    mask: npt.NDArray[np.bool_],
    k: int,
) -> npt.NDArray[np.int64]:
    if candidate.categories is None or behaviors.categories is None:
        return np.zeros(0, np.int64)
    return searches.by_category(
        candidate.categories[0], behaviors.categories, mask, k
    )


def _as_id(text: str) -> int | None:
    """Returns a text as an id; None if it is not an id."""
    try:
        value = int(text)
    except ValueError:
        return None
    return value if -(1 << 63) <= value < 1 << 63 else None


def _tier(similarity: float, num_tiers: int) -> int:
    """Returns SimTier's tier of a similarity; the lowest one is 0.

    Edges are compared as float32, as in the model.
    """
    edges = -1 + 2 * np.arange(1, num_tiers) / num_tiers
    value = np.float32(similarity)
    return int(np.searchsorted(edges.astype(np.float32), value, side="right"))
