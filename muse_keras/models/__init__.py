"""Rankers, and the model that learns item embeddings.

Importing this package registers optimizers, losses and metrics with Keras as
well, since the file of a ranker names them.
"""

from muse_keras import layers, losses, metrics, optimizers  # noqa: F401
from muse_keras.models.base_ranker import BaseRanker
from muse_keras.models.behavior_search import BehaviorSearch, CosineSearch
from muse_keras.models.category_search import CategorySearch
from muse_keras.models.combined_exact_search_unit import (
    CombinedExactSearchUnit,
    SemanticExactSearchUnit,
)
from muse_keras.models.dual_search import DualSearch
from muse_keras.models.est import EST
from muse_keras.models.exact_search_unit import ExactSearchUnit
from muse_keras.models.full_attention_unit import FullAttentionUnit
from muse_keras.models.hash_sampling_unit import HashSamplingUnit
from muse_keras.models.id_cosine_search import IdCosineSearch
from muse_keras.models.newest_search import NewestSearch
from muse_keras.models.presets import (
    DIN,
    ETA,
    MISS,
    MUSE,
    SDIM,
    TWIN,
    FullDIN,
    SIMHard,
    SIMSoft,
)
from muse_keras.models.request_model import RequestModel
from muse_keras.models.scl import SCL
from muse_keras.models.search_ranker import SearchRanker
from muse_keras.models.sim_hash_search import SimHashSearch
from muse_keras.models.target_attention_search import TargetAttentionSearch
from muse_keras.models.views import BehaviorView, CandidateView, FoundBehaviors

__all__ = [
    "DIN",
    "EST",
    "ETA",
    "MISS",
    "MUSE",
    "SCL",
    "SDIM",
    "TWIN",
    "BaseRanker",
    "BehaviorSearch",
    "BehaviorView",
    "CandidateView",
    "CategorySearch",
    "CombinedExactSearchUnit",
    "CosineSearch",
    "DualSearch",
    "ExactSearchUnit",
    "FoundBehaviors",
    "FullAttentionUnit",
    "FullDIN",
    "HashSamplingUnit",
    "IdCosineSearch",
    "NewestSearch",
    "RequestModel",
    "SIMHard",
    "SIMSoft",
    "SearchRanker",
    "SemanticExactSearchUnit",
    "SimHashSearch",
    "TargetAttentionSearch",
]
