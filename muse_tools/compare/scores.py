"""Computes GAUCs and their differences from the scores of finished cells."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from muse_keras import metrics
from muse_tools.compare.grid import Column
from muse_tools.compare.impressions import Impressions
from muse_tools.compare.results import Interval
from tfx_pipeline.evaluation.bootstrap import interval, resampled_means
from tfx_pipeline.evaluation.ranking_metrics import TOP

LISTS = {
    "ndcg_10": "ndcg",
    "mrr": "reciprocal_rank",
    "recall_10": "recall",
}
"""Metrics of the users' lists, by their names in `per_group_ranking`."""

_Mask = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class StoredCell:
    """Click probabilities (impressions,), and ``metrics.json`` of a cell."""

    scores: npt.NDArray[np.float32]
    metrics: dict[str, Any]


def read_cell(folder: pathlib.Path) -> StoredCell | None:
    """Returns a finished cell; None if it is not finished."""
    metrics = folder / "metrics.json"
    if not metrics.is_file():
        return None
    with np.load(folder / "scores.npz") as stored:
        scores = stored["scores"]
    return StoredCell(scores, json.loads(metrics.read_text("utf-8")))


class UserAUC(NamedTuple):
    """AUC and impressions (users,); both are 0 for users without an AUC.

    For the metrics of `LISTS` it is the metric, and 1.
    """

    auc: npt.NDArray[np.float64]
    weight: npt.NDArray[np.float64]

    @classmethod
    def of(
        cls,
        users: npt.NDArray[np.int64],
        user_ids: npt.NDArray[np.int64],
        clicks: npt.NDArray[np.int64],
        scores: npt.NDArray[np.float32],
        metric: str = "gauc",
    ) -> UserAUC:
        """Computes the AUC of each of `users`, which are sorted ids."""
        auc, weight = np.zeros(len(users)), np.zeros(len(users))
        if metric == "gauc":
            found = metrics.per_group_auc(clicks, scores, user_ids)
            place = np.searchsorted(users, found.group_ids)
            auc[place], weight[place] = found.auc, found.weight
        else:
            lists = metrics.per_group_ranking(clicks, scores, user_ids, TOP)
            place = np.searchsorted(users, lists.group_ids)
            auc[place], weight[place] = getattr(lists, LISTS[metric]), 1.0
        return cls(auc, weight)

    @property
    def mean(self) -> float:
        """GAUC; NaN if no user has an AUC."""
        total = self.weight.sum()
        if not total:
            return float("nan")
        return float((self.auc * self.weight).sum() / total)


@dataclasses.dataclass(frozen=True)
class Term:
    """One GAUC in a difference; the group "" has all impressions."""

    factor: float
    column: Column
    group: str = ""


class Judge:
    """Computes GAUCs and their differences over the same resamples of users."""

    def __init__(
        self,
        impressions: Impressions,
        cells: Mapping[tuple[Column, int], StoredCell],
        groups: Mapping[str, _Mask],
        samples: int,
    ) -> None:
        self.impressions = impressions
        self.cells = cells
        self._groups = {"": np.ones(len(impressions.clicks), bool), **groups}
        self._samples = samples
        self._known: dict[tuple[Column, int, str, str], UserAUC] = {}
        unscored = UserAUC.of(
            np.unique(impressions.user_ids),
            impressions.user_ids,
            impressions.clicks,
            np.zeros(len(impressions.clicks), np.float32),
        )
        # Users without both labels have no AUC and are not resampled either.
        self._users = np.unique(impressions.user_ids)[unscored.weight > 0]

    def missing(self, column: Column, seeds: Sequence[int]) -> list[int]:
        """Returns the seeds without a finished cell."""
        return [seed for seed in seeds if (column, seed) not in self.cells]

    def users(
        self, column: Column, seed: int, group: str, metric: str = "gauc"
    ) -> UserAUC:
        """Returns the AUC of each user within a group, for one seed."""
        key = (column, seed, group, metric)
        if key not in self._known:
            self._known[key] = self._compute(*key)
        return self._known[key]

    def _compute(
        self, column: Column, seed: int, group: str, metric: str
    ) -> UserAUC:
        mask = self._groups[group]
        ids = self.impressions.user_ids[mask]
        known = np.isin(ids, self._users)
        return UserAUC.of(
            self._users,
            ids[known],
            self.impressions.clicks[mask][known],
            self.cells[column, seed].scores[mask][known],
            metric,
        )

    def size(self, group: str) -> int:
        """Returns the number of impressions of a group."""
        return int(self._groups[group].sum())

    def difference(
        self,
        terms: Sequence[Term],
        seeds: Sequence[int],
        metric: str = "gauc",
    ) -> Interval:
        """Returns a sum of weighted GAUCs with its interval.

        ``metric`` may also be one of `LISTS`.

        The interval resamples users, with the mean AUC over seeds of each.
        `by_seed` and `spread` show the effect of the seed.
        """
        return difference(
            [
                [
                    self.users(term.column, seed, term.group, metric)
                    for seed in seeds
                ]
                for term in terms
            ],
            [term.factor for term in terms],
            self._samples,
        )


def difference(
    columns: Sequence[Sequence[UserAUC]],
    factors: Sequence[float],
    samples: int,
) -> Interval:
    """Returns a sum of weighted GAUCs, each with several seeds."""
    by_seed = [
        sum(f * one.mean for f, one in zip(factors, of_seed, strict=True))
        for of_seed in zip(*columns, strict=True)
    ]
    means = resampled_means(
        np.stack(
            [np.mean([one.auc for one in c], axis=0) for c in columns], axis=1
        ),
        np.stack([c[0].weight for c in columns], axis=1),
        samples,
    )
    lower, upper = interval(means @ np.array(factors))
    return Interval(
        value=finite(np.mean(by_seed)),
        lower=finite(lower),
        upper=finite(upper),
        by_seed=[finite(value) for value in by_seed],
        spread=finite(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else None,
    )


def gauc_intervals(
    user_ids: npt.NDArray[np.int64],
    clicks: npt.NDArray[np.int64],
    terms: Sequence[tuple[float, npt.NDArray[Any]]],
    samples: int,
) -> Interval:
    """Returns the sum of factors times GAUCs of scores (impressions,)."""
    users = np.unique(user_ids)
    found = [UserAUC.of(users, user_ids, clicks, scores) for _, scores in terms]
    counted = found[0].weight > 0
    columns = [
        [UserAUC(one.auc[counted], one.weight[counted])] for one in found
    ]
    return difference(columns, [factor for factor, _ in terms], samples)


def finite(value: Any) -> float | None:
    """Returns a value rounded to 6 decimals; None if it is not finite."""
    return round(float(value), 6) if np.isfinite(value) else None
