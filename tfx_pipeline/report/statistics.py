"""The numbers behind a report, from arrays of impressions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from muse_keras.metrics import PerGroupAUC, per_group_auc

from tfx_pipeline.report.contents import Interval, SliceRow

__all__ = [
    "Impressions",
    "gauc_interval",
    "paired_difference",
    "slice_rows",
    "smooth",
]

_LEVEL = 0.95
_SEED = 0


@dataclasses.dataclass(frozen=True)
class Impressions:
    """Scored impressions of the eval split, flat and aligned.

    Attributes:
        users: int64 (n,).
        clicks: 0 or 1, (n,).
        history: behaviours of the request, (n,).
        popularity: training impressions of the item, (n,).
        scores: click probability (n,) by model.
        requests: number of requests they come from.
    """

    users: np.ndarray
    clicks: np.ndarray
    history: np.ndarray
    popularity: np.ndarray
    scores: Mapping[str, np.ndarray]
    requests: int


def gauc_interval(users: PerGroupAUC, samples: int) -> Interval | None:
    """Returns GAUC with a percentile bootstrap over users, None without any."""
    if not len(users.auc):
        return None
    return _bootstrap(users.auc, users.weight, samples)


def paired_difference(
    first: PerGroupAUC, second: PerGroupAUC, samples: int
) -> Interval | None:
    """Bootstraps GAUC(second) − GAUC(first) over the same users.

    Each resample takes the same users for both models, so what makes a user
    hard for both cancels out.

    Args:
        first: per-user AUCs of the baseline.
        second: of the other model, from the same impressions.
        samples: resamples.

    Returns:
        The difference with its interval; None without any user.

    Raises:
        ValueError: the two are not of the same users.
    """
    if not np.array_equal(first.group_ids, second.group_ids) or not (
        np.array_equal(first.weight, second.weight)
    ):
        raise ValueError(
            "a paired difference needs the same users and impressions. "
            f"Received: {len(first.auc)} and {len(second.auc)} users"
        )
    if not len(first.auc):
        return None
    return _bootstrap(second.auc - first.auc, first.weight, samples)


def _bootstrap(
    values: np.ndarray, weights: np.ndarray, samples: int
) -> Interval:
    # The same draws for every model: intervals do not differ by chance.
    generator = np.random.default_rng(_SEED)
    weighted = values * weights
    means = np.empty(samples)
    for index in range(samples):
        drawn = generator.integers(0, len(values), len(values))
        means[index] = weighted[drawn].sum() / weights[drawn].sum()
    tail = (1 - _LEVEL) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(
        float(weighted.sum() / weights.sum()), float(low), float(high)
    )


def slice_rows(
    data: Impressions,
    values: np.ndarray,
    bounds: Sequence[int],
    names: Sequence[str],
    samples: int,
) -> list[SliceRow]:
    """Returns GAUC by bucket.

    Args:
        data: scored impressions.
        values: what to slice by, (n,).
        bounds: increasing lower bounds of all buckets but the first.
        names: of the buckets.
        samples: bootstrap resamples.
    """
    buckets = np.digitize(values, bounds)
    rows = []
    for index, name in enumerate(names):
        chosen = buckets == index
        if not chosen.any():
            continue
        users = {
            model: per_group_auc(
                data.clicks[chosen], scores[chosen], data.users[chosen]
            )
            for model, scores in data.scores.items()
        }
        rows.append(
            SliceRow(
                bucket=name,
                users=max(len(one.auc) for one in users.values()),
                impressions=int(chosen.sum()),
                gauc={
                    model: gauc_interval(one, samples)
                    for model, one in users.items()
                },
                difference=(
                    paired_difference(users["din"], users["muse"], samples)
                    if {"din", "muse"} <= users.keys()
                    else None
                ),
            )
        )
    return rows


def smooth(
    steps: Sequence[int], losses: Sequence[float], points: int = 120
) -> list[tuple[int, float]]:
    """Averages a loss curve over windows of equal width.

    Args:
        steps: of the losses, ascending.
        losses: one per step.
        points: windows at most.

    Returns:
        Last step and mean loss of every window; all steps count equally.
    """
    if not len(steps):
        return []
    parts = np.array_split(np.arange(len(steps)), min(points, len(steps)))
    values = np.asarray(losses, np.float64)
    return [
        (int(steps[part[-1]]), float(values[part].mean())) for part in parts
    ]
