"""The uncertainty of a weighted mean."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def mean_interval(
    values: npt.ArrayLike,
    weights: npt.ArrayLike,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap of a weighted mean over groups.

    Args:
        values: (n,), one value per group, such as a user's AUC.
        weights: (n,), above 0, such as the user's impressions.
        samples: resamples of the groups.
        level: coverage of the interval.
        seed: of the resampling.
    """
    weight = np.asarray(weights)
    weighted = np.asarray(values) * weight
    count = len(weighted)
    if not count:
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    means = np.empty(samples)
    for index in range(samples):
        drawn = generator.integers(0, count, count)
        means[index] = weighted[drawn].sum() / weight[drawn].sum()
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
