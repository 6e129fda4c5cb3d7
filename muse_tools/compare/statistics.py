"""GAUC of many cells on the same users, and how certain it is."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from muse_keras import metrics

_Floats = npt.NDArray[np.float64]

METRICS = ("gauc", "auc", "log_loss", "calibration")


def impression_metrics(
    user_ids: npt.NDArray[np.int64],
    clicks: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float32],
) -> dict[str, float]:
    """Returns the metrics of one cell, those of the Evaluator."""
    from tfx_pipeline.evaluation.ranking_metrics import ranking_metrics

    # The intervals come later, from the scores of all seeds.
    found = ranking_metrics(user_ids, clicks, scores, bootstrap_samples=1)
    return {name: found[name] for name in METRICS}


class UserAUC(NamedTuple):
    """AUC and impressions of each user; both 0 where a user has no AUC."""

    auc: _Floats
    weight: _Floats

    @classmethod
    def of(
        cls,
        users: npt.NDArray[np.int64],
        user_ids: npt.NDArray[np.int64],
        clicks: npt.NDArray[np.int64],
        scores: npt.NDArray[np.float32],
    ) -> UserAUC:
        """Computes AUCs of impressions; `users` are sorted ids."""
        found = metrics.per_group_auc(clicks, scores, user_ids)
        auc, weight = np.zeros(len(users)), np.zeros(len(users))
        place = np.searchsorted(users, found.group_ids)
        auc[place] = found.auc
        weight[place] = found.weight
        return cls(auc, weight)

    @property
    def mean(self) -> float:
        """GAUC; NaN when no user has an AUC."""
        total = self.weight.sum()
        if not total:
            return float("nan")
        return float((self.auc * self.weight).sum() / total)


def resampled_means(
    values: _Floats, weights: _Floats, samples: int, seed: int = 0
) -> _Floats:
    """Bootstraps weighted means of several columns over the same users.

    Every column sees the same resamples, so the difference of two columns of
    the result is paired. One column's quantiles are the interval of
    `evaluation.bootstrap.mean_interval`.

    Both are (users, columns), and a weight of 0 leaves a user out; returns
    (samples, columns), NaN where a resample has no user of a column.
    """
    count = len(values)
    # Users that no column counts must not thin the resamples out.
    weighted = values * weights
    generator = np.random.default_rng(seed)
    found = np.full((samples, values.shape[1]), np.nan)
    if not count:
        return found
    for index in range(samples):
        drawn = generator.integers(0, count, count)
        times = np.bincount(drawn, minlength=count).astype(np.float64)
        total = times @ weights
        np.divide(times @ weighted, total, out=found[index], where=total > 0)
    return found


def interval(samples: _Floats, level: float = 0.95) -> tuple[float, float]:
    """Returns the percentile interval of resampled values, NaN left out."""
    known = samples[np.isfinite(samples)]
    if not len(known):
        return float("nan"), float("nan")
    tail = (1 - level) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)
