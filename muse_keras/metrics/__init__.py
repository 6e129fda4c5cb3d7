"""Metrics of rankers and of item embeddings."""

from muse_keras.metrics.calibration import Calibration
from muse_keras.metrics.embedding_spread import EmbeddingSpread
from muse_keras.metrics.group_auc import GroupAUC
from muse_keras.metrics.per_group_auc import PerGroupAUC, per_group_auc
from muse_keras.metrics.per_group_ranking import (
    PerGroupRanking,
    per_group_ranking,
)

__all__ = [
    "Calibration",
    "EmbeddingSpread",
    "GroupAUC",
    "PerGroupAUC",
    "PerGroupRanking",
    "per_group_auc",
    "per_group_ranking",
]
