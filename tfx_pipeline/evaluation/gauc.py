"""The uncertainty of GAUC."""

from __future__ import annotations

import numpy as np

from muse_keras.metrics import PerGroupAUC

__all__ = ["bootstrap_interval"]


def bootstrap_interval(
    users: PerGroupAUC,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap of GAUC over users.

    Args:
        users: per-user AUCs and weights.
        samples: resamples of the users.
        level: coverage of the interval.
        seed: of the resampling.

    Returns:
        Lower and upper bound; NaN without any user.
    """
    count = len(users.auc)
    if not count:
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    weighted = users.auc * users.weight
    values = np.empty(samples)
    for index in range(samples):
        drawn = generator.integers(0, count, count)
        values[index] = weighted[drawn].sum() / users.weight[drawn].sum()
    tail = (1 - level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
