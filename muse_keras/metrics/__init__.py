"""Ranking metrics."""

from muse_keras.metrics.calibration import Calibration
from muse_keras.metrics.group_auc import GroupAUC
from muse_keras.metrics.per_group_auc import PerGroupAUC, per_group_auc

__all__ = ["Calibration", "GroupAUC", "PerGroupAUC", "per_group_auc"]
