"""Rankers, and the model that learns item embeddings."""

from muse_keras.models.base_ranker import BaseRanker
from muse_keras.models.behavior_search import BehaviorSearch, CosineSearch
from muse_keras.models.din import DIN
from muse_keras.models.exact_search_unit import (
    ExactSearchUnit,
    SemanticExactSearchUnit,
)
from muse_keras.models.muse import MUSE
from muse_keras.models.scl import SCL

__all__ = [
    "DIN",
    "MUSE",
    "SCL",
    "BaseRanker",
    "BehaviorSearch",
    "CosineSearch",
    "ExactSearchUnit",
    "SemanticExactSearchUnit",
]
