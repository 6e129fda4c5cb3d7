"""Bootstrap intervals of weighted means."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_Floats = npt.NDArray[np.float64]


def mean_interval(
    values: npt.ArrayLike,
    weights: npt.ArrayLike,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Returns the percentile bootstrap interval of a weighted mean.

    For example, `values` (n,) are the AUCs of n users and `weights` (n,) their
    impressions. Returns NaN if n is 0.
    """
    means = resampled_means(
        np.asarray(values, np.float64)[:, None],
        np.asarray(weights, np.float64)[:, None],
        samples,
        seed,
    )
    return interval(means[:, 0], level)


def resampled_means(
    values: _Floats, weights: _Floats, samples: int, seed: int = 0
) -> _Floats:
    """Bootstraps weighted means of several columns over the same users.

    All columns use the same resamples, so the difference of two columns of the
    result is paired. Values and weights are (users, columns); a weight of 0
    leaves a user out. Returns (samples, columns); NaN if a resample has no user
    with a weight in a column.
    """
    count = len(values)
    # The caller removes users without a weight in any column, which would make
    # resamples smaller.
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
    """Returns the percentile interval of resampled values, ignoring NaN."""
    known = samples[np.isfinite(samples)]
    if not len(known):
        return float("nan"), float("nan")
    tail = (1 - level) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)
