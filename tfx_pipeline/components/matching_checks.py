"""Checks every signature of a served retrieval model against NumPy."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from muse_keras.tables import ItemTable
from muse_keras.tables.array_blocks import blocks, release_pages
from muse_keras.tables.item_table import inverse_norms_of
from serving.client import MuseClient, RecommendRequest, RecommendResult
from tfx_pipeline.components.serving_checks import (
    WrongAnswer,
    difference,
    worst_differences,
)
from tfx_pipeline.matching.settings import (
    CLICKS_FILE,
    EVALUATION_FILE,
    Scoring,
)

_Rows: TypeAlias = npt.NDArray[np.integer[Any]]

_USERS = 6
_BEHAVIORS = 40


@dataclasses.dataclass(frozen=True, eq=False)
class Expected:
    """The expected retrieval scores of an item table.

    ``clicked`` are the items clicked in the train split and ``clicks`` their
    counts. ``max_behaviors`` is the number of newest behaviors that are used,
    ``least_found`` the share of the best items that answers must have.
    """

    table: ItemTable
    clicked: npt.NDArray[np.int64]
    clicks: npt.NDArray[np.int64]
    scoring: Scoring
    max_behaviors: int
    least_found: float = 1.0

    @classmethod
    def read(cls, table: ItemTable, evaluation: pathlib.Path) -> Expected:
        """Reads the evaluation that MatchingGen wrote."""
        found = json.loads((evaluation / EVALUATION_FILE).read_text("utf-8"))
        with np.load(evaluation / CLICKS_FILE) as clicks:
            return cls(
                table,
                clicks["item_ids"],
                clicks["clicks"],
                Scoring(**found["scoring"]),
                found["max_behaviors"],
                # A few requests have a larger error than `index_recall`,
                # which is about many.
                found["index"].get("wanted", 2.0) / 2,
            )

    def histories(self) -> list[npt.NDArray[np.int64]]:
        """Returns test histories: empty, an unknown item, repeated items."""
        rng = np.random.default_rng(0)
        ids = rng.choice(self.table.item_ids, (_USERS, _BEHAVIORS))
        ids[:, ::3] = ids[:, :1]
        unknown = rng.integers(1, 1 << 62, 1)
        longer = np.tile(ids[0], self.max_behaviors // _BEHAVIORS + 1)
        return [ids[0, :0], unknown, np.append(longer, unknown), *ids]

    def vectors(self, rows: _Rows) -> npt.NDArray[np.float64]:
        """Returns unit vectors (n, D) of table rows; 0 without a vector."""
        codes = self.table.codes[rows]
        release_pages(self.table.codes)
        norms = inverse_norms_of(codes)[:, np.newaxis]
        return codes.astype(np.float64) * norms

    def similarities(
        self, queries: npt.NDArray, rows: _Rows
    ) -> npt.NDArray[np.float64]:
        """Returns cosines (Q, n) of unit queries; -inf without a vector."""
        vectors = self.vectors(rows)
        return np.where(vectors.any(axis=1), queries @ vectors.T, -np.inf)

    def scores(
        self,
        histories: Sequence[npt.NDArray[np.int64]],
        rows: _Rows,
    ) -> npt.NDArray[np.float64]:
        """Returns scores (Q, n) of table rows; -inf without a vector."""
        scoring = self.scoring
        newest = [
            self.table.rows(ids[ids != 0][-self.max_behaviors :])
            for ids in histories
        ]
        queries = np.zeros((len(histories), self.table.dim))
        for query, behaviors in zip(queries, newest, strict=True):
            age = np.arange(len(behaviors))[::-1]
            query += 0.5 ** (age / scoring.half_life) @ self.vectors(behaviors)
            query /= np.linalg.norm(query) or 1.0
        popularity = np.log1p(
            _of(self.table.rows(self.clicked), self.clicks, rows)
        ) / max(np.log1p(self.clicks.max(initial=0)), 1e-9)
        repeats = [_of(*np.unique(b, return_counts=True), rows) for b in newest]
        return (
            scoring.vector_weight * self.similarities(queries, rows)
            + scoring.popularity_weight * popularity
            + scoring.repeat_weight * np.log1p(repeats)
        )


@dataclasses.dataclass(frozen=True)
class Matcher:
    """A served retrieval model and its expected scores."""

    client: MuseClient
    expected: Expected

    def differences(self) -> dict[str, float]:
        """Checks every signature; see `worst_differences`."""
        return worst_differences(self.client, self, CHECKS, CHECKS)


def _recommend(served: Matcher) -> float:
    histories = served.expected.histories()
    return _compare(
        "recommend",
        served,
        served.client.recommend([RecommendRequest(ids) for ids in histories]),
        lambda rows: served.expected.scores(histories, rows),
    )


def _serving_default(served: Matcher) -> float:
    ids = served.expected.histories()[-1]
    answer = served.client.predict(
        "serving_default", {"behavior_item_ids": ids[np.newaxis]}
    )
    return _compare(
        "serving_default",
        served,
        [RecommendResult(answer["candidate_item_ids"][0], answer["scores"][0])],
        lambda rows: served.expected.scores([ids], rows),
    )


def _search(served: Matcher) -> float:
    expected = served.expected
    rng = np.random.default_rng(1)
    # Near to items, as queries are: an index of clusters relies on it.
    near = expected.vectors(rng.choice(expected.table.num_items, 64) + 1)
    near = near[np.argsort(~near.any(axis=1), kind="stable")[:_USERS]]
    noise = rng.normal(scale=0.3 / near.shape[1] ** 0.5, size=near.shape)
    queries = (near + noise).astype(np.float32)
    unit = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    return _compare(
        "search",
        served,
        served.client.search(queries),
        lambda rows: expected.similarities(unit, rows),
    )


def _compare(
    name: str,
    served: Matcher,
    answers: Sequence[RecommendResult],
    scores: Callable[[_Rows], npt.NDArray[np.float64]],
) -> float:
    """Compares answers with the best of all items; ties may have any order.

    Differences are relative for scores above 1. An index of clusters may miss
    some of the best items, but its scores and their order must be right.

    Raises:
        WrongAnswer: an answer repeats an item or has an unknown one, or
            answers miss too many of the best items.
    """
    least = served.expected.least_found
    table = served.expected.table
    size = len(answers[0].scores)
    best = np.zeros((len(answers), 0))
    for block in blocks(table.num_items):
        rows = np.arange(block.start, block.stop) + 1
        best = np.sort(np.append(best, scores(rows), axis=1), axis=1)
        best = best[:, -size:]
    worst, found = 0.0, []
    for place, answer in enumerate(answers):
        rows = table.rows(answer.candidate_item_ids)
        if len(np.unique(rows)) < size or not rows.all():
            raise WrongAnswer(
                f"{name}: answer {place} has items twice, or that the item "
                "table does not have"
            )
        given = np.asarray(answer.scores, np.float64)
        right = best[place, ::-1] if least == 1.0 else np.sort(given)[::-1]
        for wanted in (scores(rows)[place], right):
            scale = np.maximum(1.0, np.abs(wanted))
            worst = max(worst, difference(given / scale, wanted / scale))
        found.append(np.mean(given >= best[place, 0] - worst))
    if np.mean(found) < least:
        raise WrongAnswer(
            f"{name}: answers have {np.mean(found):.4f} of the best items, at "
            f"least {least:.4f} are needed"
        )
    return worst


def _of(
    keys: npt.NDArray, values: npt.NDArray, wanted: npt.NDArray
) -> npt.NDArray[np.float64]:
    """Returns the value of each wanted key; 0 for unknown keys."""
    if not len(keys):
        return np.zeros(len(wanted))
    order = np.argsort(keys)
    place = np.searchsorted(keys, wanted, sorter=order)
    place = order[np.minimum(place, len(keys) - 1)]
    return np.where(keys[place] == wanted, values[place], 0.0)


CHECKS: dict[str, Callable[[Matcher], float]] = {
    "recommend": _recommend,
    "serving_default": _serving_default,
    "search": _search,
}
"""The check of each signature."""
