"""Layers: search, exact modeling, rankers and item embeddings."""

from muse_keras.layers.dice import Dice
from muse_keras.layers.est_block import ESTBlock
from muse_keras.layers.gsu_top_k import GSUResult, GSUTopK
from muse_keras.layers.id_embedding import IdEmbedding
from muse_keras.layers.identity_signal import IdentitySignal
from muse_keras.layers.memory_bank import MemoryBank
from muse_keras.layers.scl_tower import SCLTower
from muse_keras.layers.semantic_aware_target_attention import (
    SemanticAwareTargetAttention,
)
from muse_keras.layers.sim_tier import SimTier
from muse_keras.layers.target_attention import TargetAttention

__all__ = [
    "Dice",
    "ESTBlock",
    "GSUResult",
    "GSUTopK",
    "IdEmbedding",
    "IdentitySignal",
    "MemoryBank",
    "SCLTower",
    "SemanticAwareTargetAttention",
    "SimTier",
    "TargetAttention",
]
