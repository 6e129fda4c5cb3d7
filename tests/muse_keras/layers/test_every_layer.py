"""The shared check of every public layer."""

import numpy as np
import pytest
from ranker_testing.data import SMALL
from ranker_testing.layer_check import check_integers, check_layer

from muse_keras import compat, layers, losses, metrics, models, tables

RNG = np.random.default_rng(7)
B, C, K, L, E = 4, 3, 5, 9, 6


def floats(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype("float32")


def codes(*shape: int) -> np.ndarray:
    return RNG.integers(-127, 128, shape).astype("int8")


def mask(*shape: int) -> np.ndarray:
    result = RNG.random(shape) < 0.7
    result[0] = False
    return result


def similarities(*shape: int) -> np.ndarray:
    return RNG.uniform(-1.0, 1.0, shape).astype("float32")


def unit(*shape: int) -> np.ndarray:
    values = floats(*shape)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


ATTENTION = {"num_heads": 2, "key_dim": 4, "value_dim": 3}
CASES = {
    "gsu_codes": (
        layers.GSUTopK,
        {"k": 4},
        {
            "candidates": codes(B, C, E),
            "behaviors": codes(B, L, E),
            "behavior_mask": mask(B, L),
        },
        {},
    ),
    "gsu_one_candidate": (
        layers.GSUTopK,
        {"k": 4},
        {
            "candidates": floats(B, E),
            "behaviors": floats(B, L, E),
            "behavior_mask": mask(B, L),
            "behavior_inverse_norms": floats(B, L),
        },
        {},
    ),
    "gsu_floats_in_blocks": (
        layers.GSUTopK,
        {"k": 12, "block_size": 40},
        {"candidates": floats(B, C, E), "behaviors": floats(B, L, E)},
        {},
    ),
    "sim_tier": (
        layers.SimTier,
        {"num_tiers": 4},
        {"similarities": similarities(B, C, 40), "mask": mask(B, C, 40)},
        {},
    ),
    "sim_tier_fraction": (
        layers.SimTier,
        {"num_tiers": 3, "scale": "fraction", "learnable": False},
        {"similarities": similarities(B, C, K)},
        {},
    ),
    "identity_signal": (
        layers.IdentitySignal,
        {"fine_tiers": 2},
        {
            "similarities": similarities(B, C, K),
            "same_item": mask(B, C, K),
            "ages": floats(B, C, K) ** 2,
            "mask": mask(B, C, K),
        },
        {},
    ),
    "target_attention_shared": (
        layers.TargetAttention,
        {"num_heads": 2, "activation": "silu"},
        {
            "target": floats(B, C, E),
            "behaviors": floats(B, K, E),
            "mask": mask(B, K),
        },
        {},
    ),
    "target_attention_scores": (
        layers.TargetAttention,
        {**ATTENTION, "activation": "linear"},
        {
            "target": floats(B, C, E),
            "behaviors": floats(B, C, K, E + 1),
            "mask": mask(B, C, K),
        },
        {"return_attention_scores": True},
    ),
    "semantic_attention": (
        layers.SemanticAwareTargetAttention,
        {**ATTENTION, "activation": "silu", "similarity_scale": 10.0},
        {
            "target": floats(B, C, E),
            "behaviors": floats(B, C, K, E),
            "similarities": similarities(B, C, K),
            "mask": mask(B, C, K),
        },
        {"return_attention_scores": True},
    ),
    "semantic_attention_one_candidate": (
        layers.SemanticAwareTargetAttention,
        {"num_heads": 2, "similarity_scale": 10.0},
        {
            "target": floats(B, E),
            "behaviors": floats(B, K, E + 1),
            "similarities": similarities(B, K),
            "mask": mask(B, K),
        },
        {"return_attention_scores": True},
    ),
    "target_attention_one_candidate": (
        layers.TargetAttention,
        ATTENTION,
        {"target": floats(B, E), "behaviors": floats(B, K, E)},
        {"return_attention_scores": True},
    ),
    "dice": (
        layers.Dice,
        {"momentum": 0.9, "epsilon": 0.01},
        {"inputs": floats(B, C, E), "mask": mask(B, C)},
        {},
    ),
    "id_embedding": (
        layers.IdEmbedding,
        {"num_rows": 8, "dim": 3},
        {"rows": RNG.integers(0, 8, (B, L)).astype("int32")},
        {},
    ),
    "scl_tower": (
        layers.SCLTower,
        {
            "modalities": {"image": E, "text": 8},
            "hidden_units": (7, 6),
            "output_dim": 4,
        },
        {"features": {"image": floats(B, E), "text": floats(B, 8)}},
        {},
    ),
    "scl_tower_linear": (
        layers.SCLTower,
        {"modalities": {"text": 8}, "hidden_units": (), "output_dim": 3},
        {"features": {"text": floats(B, 8)}},
        {},
    ),
    "info_nce": (
        losses.InfoNCE,
        {"temperature": 0.2},
        {
            "queries": unit(B, E),
            "keys": unit(B, E),
            "item_ids": np.array([3, 4, 3, 5], "int32"),
            "bank_keys": unit(B, E),
            "bank_ids": np.array([3, 9, 9, 0], "int32"),
            "bank_mask": np.array([True, True, True, False]),
        },
        {},
    ),
    "cosine_triplet_loss": (
        losses.CosineTripletLoss,
        {"margin": 0.3},
        {
            "anchor": unit(B, E),
            "positive": unit(B, E),
            "negatives": unit(B, K, E),
            "mask": mask(B, K),
        },
        {},
    ),
}
# Not called, or not a layer: a test file of their own.
OTHERS = {"ESTBlock", "GSUResult", "MemoryBank"}


@pytest.mark.parametrize("case", CASES)
def test_layer(case, tmp_path):
    cls, arguments, inputs, call = CASES[case]
    check_layer(cls, arguments, inputs, tmp_path, call)


def test_every_public_layer_is_checked():
    checked = {cls.__name__ for cls, *_ in CASES.values()}
    assert set(layers.__all__) - checked == OTHERS


CONSTRUCTORS = {
    models.MUSE: SMALL,
    models.EST: SMALL,
    compat.PublishedMUSE: {
        name: value for name, value in SMALL.items() if name != "num_tiers"
    },
    models.SimHashSearch: {"dim": 3},
    models.TargetAttentionSearch: {},
    models.DualSearch: {"k": 2},
    models.FullAttentionUnit: {},
    models.HashSamplingUnit: {},
    models.CombinedExactSearchUnit: {},
    models.SCL: {"query_tower": layers.SCLTower({"a": 2})},
    layers.MemoryBank: {"size": 4, "dim": 2},
    metrics.EmbeddingSpread: {"dim": 3},
    tables.MultimodalEmbeddingTable: {"num_items": 3},
}


@pytest.mark.parametrize("cls", CONSTRUCTORS)
def test_integers_of_what_is_no_layer_of_its_own(cls):
    check_integers(cls, CONSTRUCTORS[cls])
