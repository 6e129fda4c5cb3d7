"""Exact search units against the formulas in NumPy."""

import keras
import numpy as np
import pytest
from keras import ops
from ranker_testing import oracles

from muse_keras.models import (
    BehaviorView,
    CombinedExactSearchUnit,
    FoundBehaviors,
    FullAttentionUnit,
    HashSamplingUnit,
    SemanticExactSearchUnit,
)

B, C, K, L, E, TIERS = 2, 3, 5, 9, 4, 6
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def numpy(value):
    return ops.convert_to_numpy(value)


def inputs(seed=0):
    rng = np.random.default_rng(seed)
    mask = rng.random((B, C, K)) < 0.7
    mask[1, 2] = False
    similarities = rng.uniform(-1, 1, (B, C, K)).astype("float32")
    return (
        rng.normal(size=(B, C, E)).astype("float32"),
        rng.normal(size=(B, C, K, E)).astype("float32"),
        np.where(mask, similarities, 0).astype("float32"),
        mask,
    )


def found_of(behaviors, similarities, mask):
    return FoundBehaviors(
        np.zeros(mask.shape, "int32"), mask, similarities, behaviors
    )


def history_of(embeddings, mask):
    rows = np.zeros(mask.shape, "int32")
    return BehaviorView(rows, mask, embeddings=embeddings)


def call(unit, target, found, history=None):
    """Features and weights; without weights, the same features."""
    target = ops.convert_to_tensor(target)
    features, weights = unit(
        target, found, history, return_attention_scores=True
    )
    np.testing.assert_array_equal(
        numpy(unit(target, found, history)), numpy(features)
    )
    return numpy(features), numpy(weights)


@pytest.mark.parametrize("attention", [None, "ta", "sa_ta"])
@pytest.mark.parametrize("with_tiers", [True, False])
def test_combinations_against_numpy(attention, with_tiers):
    if attention is None and not with_tiers:
        with pytest.raises(ValueError, match="or both"):
            CombinedExactSearchUnit(None, False)
        return
    unit = CombinedExactSearchUnit(
        attention, with_tiers, num_heads=2, num_tiers=TIERS
    )
    target, behaviors, similarities, mask = inputs()
    found = found_of(behaviors, similarities, mask)
    unit.build(target.shape)
    rng = np.random.default_rng(1)
    for weight in unit.trainable_variables:
        weight.assign(rng.normal(size=weight.shape))
    features, weights = call(unit, target, found)
    assert unit.compute_output_shape(target.shape) == features.shape
    counts = oracles.tier_counts(similarities, mask, TIERS)
    np.testing.assert_array_equal(numpy(unit.count_tiers(found)), counts)
    expected = []
    if with_tiers:
        tier_weights = numpy(unit.tiers.tier_weights)
        expected.append(np.log1p(counts) * tier_weights)
    else:
        assert not unit.tiers.trainable_variables
    if attention is None:
        assert not weights.any()
    else:
        layer = unit.attention
        kernels = [
            numpy(getattr(layer, f"{name}_kernel"))
            for name in ("query", "key", "value")
        ]
        guided = (
            {"gamma": numpy(layer.gamma), "scale": numpy(layer.learned_scale)}
            if attention == "sa_ta"
            else {}
        )
        attended = np.zeros((B, C, E))
        for b in range(B):
            for c in range(C):
                if guided:
                    guided["similarities"] = similarities[b, c]
                attended[b, c], shares = oracles.attention(
                    target[b, c],
                    behaviors[b, c],
                    kernels,
                    mask[b, c],
                    heads=2,
                    activation=oracles.silu,
                    **guided,
                )
                np.testing.assert_allclose(weights[b, c], shares, **CLOSE)
        expected.append(attended)
    np.testing.assert_allclose(
        features, np.concatenate(expected, axis=-1), **CLOSE
    )


def test_full_attention_against_numpy():
    unit = FullAttentionUnit(num_heads=2)
    target, behaviors, similarities, mask = inputs(6)
    rng = np.random.default_rng(6)
    embeddings = rng.normal(size=(B, L, E)).astype("float32")
    real = rng.random((B, L)) < 0.8
    indices = rng.integers(0, L, (B, C, K)).astype("int32")
    found = FoundBehaviors(indices, mask, similarities, behaviors)
    features, weights = call(unit, target, found, history_of(embeddings, real))
    kernels = [
        numpy(getattr(unit.attention, f"{name}_kernel"))
        for name in ("query", "key", "value")
    ]
    for b in range(B):
        for c in range(C):
            attended, shares = oracles.attention(
                target[b, c],
                embeddings[b],
                kernels,
                real[b],
                heads=2,
                activation=oracles.silu,
            )
            np.testing.assert_allclose(features[b, c], attended, **CLOSE)
            shown = shares[:, indices[b, c]] * mask[b, c]
            np.testing.assert_allclose(weights[b, c], shown, **CLOSE)
    nothing = history_of(embeddings[:, :0], real[:, :0])
    found = found_of(behaviors, similarities, np.zeros_like(mask))
    features, weights = call(unit, target, found, nothing)
    assert not features.any() and not weights.any()
    with pytest.raises(ValueError, match="`history` must be given"):
        unit(ops.convert_to_tensor(target))
    with pytest.raises(ValueError, match="`found` must be given"):
        unit(
            ops.convert_to_tensor(target),
            None,
            nothing,
            return_attention_scores=True,
        )


def test_the_identity_signal_is_a_feature():
    plain, telling = (
        CombinedExactSearchUnit("ta", num_tiers=TIERS, identity=identity)
        for identity in (False, True)
    )
    target, behaviors, similarities, mask = inputs(7)
    rng = np.random.default_rng(7)
    found = FoundBehaviors(
        np.zeros(mask.shape, "int32"),
        mask,
        similarities,
        behaviors,
        same_item=rng.random(mask.shape) < 0.5,
        ages=rng.integers(0, 9, mask.shape).astype("float32"),
    )
    for unit in (plain, telling):
        unit.build(target.shape)
    for weight, same in zip(telling.weights, plain.weights, strict=True):
        weight.assign(same)
    without, _ = call(plain, target, found)
    features, _ = call(telling, target, found)
    width = telling.identity.width
    assert telling.compute_output_shape(target.shape) == features.shape
    np.testing.assert_array_equal(
        np.delete(features, slice(TIERS, TIERS + width), axis=-1), without
    )
    signal = telling.identity(
        similarities, numpy(found.same_item), numpy(found.ages), mask
    )
    np.testing.assert_array_equal(
        features[..., TIERS : TIERS + width], numpy(signal)
    )


def buckets(embeddings, planes, rounds, bits):
    """The bucket of each round, as the bits in a row."""
    sides = embeddings.astype("float64") @ planes >= 0
    return sides.reshape(*embeddings.shape[:-1], rounds, bits)


def test_sampling_against_numpy():
    unit = HashSamplingUnit(num_rounds=4, bits_per_round=2, seed=3)
    target, behaviors, similarities, mask = inputs(2)
    found = found_of(behaviors, similarities, mask)
    rng = np.random.default_rng(2)
    embeddings = rng.normal(size=(B, L, E)).astype("float32")
    real = rng.random((B, L)) < 0.8
    real[1] = False
    features, weights = call(unit, target, found, history_of(embeddings, real))
    planes = numpy(unit.planes)
    own = buckets(target, planes, 4, 2)
    held = buckets(embeddings, planes, 4, 2)
    shown = buckets(behaviors, planes, 4, 2)
    for b in range(B):
        for c in range(C):
            expected = np.zeros(E)
            for g in range(4):
                total = np.zeros(E)
                for i in range(L):
                    same = (own[b, c, g] == held[b, i, g]).all()
                    if real[b, i] and same:
                        total += embeddings[b, i]
                if total.any():
                    expected += total / np.linalg.norm(total) / 4
            np.testing.assert_allclose(features[b, c], expected, **CLOSE)
            agree = (own[b, c] == shown[b, c]).all(axis=-1).mean(axis=-1)
            np.testing.assert_allclose(
                weights[b, c, 0], agree * mask[b, c], atol=1e-6
            )
    assert features[0].any()
    assert not features[1].any()


@pytest.mark.skipif(
    keras.backend.backend() == "jax", reason="the same code as on PyTorch"
)
def test_many_rounds_sample_by_the_angle():
    """A behavior at angle a collides in a share (1 - a / pi) ** t."""
    rounds, bits = 3000, 3
    unit = HashSamplingUnit(num_rounds=rounds, bits_per_round=bits, seed=4)
    angles = np.linspace(0.1, 2.5, K)
    target = np.zeros((1, 1, E), "float32")
    target[..., 0] = 3.0
    behaviors = np.zeros((1, 1, K, E), "float32")
    behaviors[0, 0, :, 0] = np.cos(angles)
    behaviors[0, 0, :, 1] = np.sin(angles)
    real = np.ones((1, 1, K), bool)
    found = found_of(behaviors, None, real)
    # One behavior alone: the interest is its direction times its share.
    history = history_of(behaviors[:, 0, 1:2], real[:, 0, :1])
    features, weights = call(unit, target, found, history)
    expected = (1 - angles / np.pi) ** bits
    error = 4 * np.sqrt(expected * (1 - expected) / rounds)
    assert (np.abs(weights[0, 0, 0] - expected) < error).all()
    np.testing.assert_allclose(
        features[0, 0], behaviors[0, 0, 1] * weights[0, 0, 0, 1], atol=1e-4
    )


def test_sampling_needs_no_search():
    unit = HashSamplingUnit(num_rounds=2)
    target = ops.convert_to_tensor(inputs()[0])
    history = history_of(np.zeros((B, L, E), "float32"), np.zeros((B, L), bool))
    features = unit(target, FoundBehaviors(None, None), history)
    assert not numpy(features).any()
    with pytest.raises(ValueError, match="`history` must be given"):
        unit(target)
    with pytest.raises(ValueError, match="`found` must be given"):
        unit(target, None, history, return_attention_scores=True)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="`attention` must be one of"):
        CombinedExactSearchUnit("din")
    with pytest.raises(ValueError, match="`num_rounds` must be a positive"):
        HashSamplingUnit(num_rounds=0)


def test_configurations_round_trip():
    for unit in (
        CombinedExactSearchUnit("ta", False, num_tiers=3),
        SemanticExactSearchUnit(num_heads=2, similarity_scale=None),
        CombinedExactSearchUnit("ta", identity=True),
        FullAttentionUnit(num_heads=2, activation=None, num_tiers=4),
        HashSamplingUnit(3, 2, seed=5),
    ):
        again = type(unit).from_config(unit.get_config())
        assert again.get_config() == unit.get_config()
