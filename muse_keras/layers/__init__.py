"""Layers: search, exact modelling and what a ranker is made of."""

from muse_keras.layers.dice import Dice
from muse_keras.layers.gsu_top_k import GSUResult, GSUTopK
from muse_keras.layers.id_embedding import IdEmbedding
from muse_keras.layers.semantic_aware_target_attention import (
    SemanticAwareTargetAttention,
)
from muse_keras.layers.sim_tier import SimTier
from muse_keras.layers.target_attention import TargetAttention

__all__ = [
    "Dice",
    "GSUResult",
    "GSUTopK",
    "IdEmbedding",
    "SemanticAwareTargetAttention",
    "SimTier",
    "TargetAttention",
]
