"""Rankers: one base, one search interface, one exact search interface."""

from muse_keras.models.base_ranker import BaseRanker
from muse_keras.models.behavior_search import BehaviorSearch, CosineSearch
from muse_keras.models.din import DIN
from muse_keras.models.exact_search_unit import (
    ExactSearchUnit,
    SemanticExactSearchUnit,
)
from muse_keras.models.muse import MUSE

__all__ = [
    "DIN",
    "MUSE",
    "BaseRanker",
    "BehaviorSearch",
    "CosineSearch",
    "ExactSearchUnit",
    "SemanticExactSearchUnit",
]
