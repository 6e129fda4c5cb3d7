"""The uncertainty of GAUC."""

from __future__ import annotations

from muse_keras.metrics import PerGroupAUC
from tfx_pipeline.evaluation import bootstrap

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
    return bootstrap.mean_interval(
        users.auc, users.weight, samples, level, seed
    )
