"""The options of layers that the published formulas need."""

import keras
import numpy as np
import pytest
from keras import ops

from muse_keras.compat import TwoLogitTower
from muse_keras.layers import (
    Dice,
    SemanticAwareTargetAttention,
    SimTier,
    TargetAttention,
)


def test_ceil_tiers_include_their_upper_edges():
    layer = SimTier(22, scale="count", learnable=False, edges="ceil")
    values = np.array([-1.0, -0.95, -0.9, 0.0, 0.05, 0.1, 1.0], "float32")
    counts = ops.convert_to_numpy(layer(values[None]))[0]
    expected = np.zeros(22)
    for tier in (0, 1, 1, 10, 11, 11, 20):
        expected[tier] += 1
    np.testing.assert_array_equal(counts, expected)
    rounded = np.nextafter(np.float32(1.0), np.float32(2.0))
    counts = ops.convert_to_numpy(layer(np.array([[rounded, -2.0, 5.0]])))
    assert counts[0, 21] == 2 and counts[0, 0] == 1
    mask = np.array([[True, False, True, False, True, False, True]])
    counts = ops.convert_to_numpy(layer(values[None], mask=mask))
    assert counts.sum() == 4 and counts[0, 10] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"edges": "round"}, "`edges` must be one of"),
        ({"edges": "ceil", "num_tiers": 21}, "needs an even `num_tiers`"),
    ],
)
def test_impossible_tiers(options, message):
    with pytest.raises(ValueError, match=message):
        SimTier(**options)


def test_dice_over_the_channels_of_each_position():
    values = np.array([[1.0, 2.0, 6.0], [-4.0, 0.0, 1.0]], "float32")
    layer = Dice(epsilon=1e-9, alpha_initializer="ones", normalization="layer")
    np.testing.assert_allclose(
        ops.convert_to_numpy(layer(values)), values, rtol=1e-6
    )
    layer.alpha.assign([-0.25] * 3)
    centered = values - values.mean(axis=1, keepdims=True)
    gate = 1 / (1 + np.exp(-centered / values.std(axis=1, keepdims=True)))
    expected = values * gate - 0.25 * values * (1 - gate)
    for training in (False, True):
        found = layer(values, training=training)
        np.testing.assert_allclose(
            ops.convert_to_numpy(found), expected, rtol=1e-5
        )
    assert len(layer.weights) == 1
    with pytest.raises(ValueError, match="`normalization` must be one of"):
        Dice(normalization="group")


def test_biases_of_an_attention():
    rng = np.random.default_rng(3)
    target = rng.normal(size=(1, 2, 4)).astype("float32")
    behaviors = rng.normal(size=(1, 5, 4)).astype("float32")
    layer = TargetAttention(use_bias=True)
    layer(target, behaviors)
    q, k, v = (rng.normal(size=4).astype("float32") for _ in range(3))
    layer.query_bias.assign(q)
    layer.key_bias.assign(k)
    layer.value_bias.assign(v)
    kernels = [
        ops.convert_to_numpy(kernel)
        for kernel in (layer.query_kernel, layer.key_kernel, layer.value_kernel)
    ]
    query = target[0] @ kernels[0] + q
    key = behaviors[0] @ kernels[1] + k
    value = behaviors[0] @ kernels[2] + v
    powers = np.exp(query @ key.T / 2.0)
    expected = powers / powers.sum(axis=1, keepdims=True) @ value
    found = ops.convert_to_numpy(layer(target, behaviors))
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        SimTier(22, edges="ceil"),
        Dice(normalization="layer"),
        TargetAttention(use_bias=True),
        SemanticAwareTargetAttention(use_bias=True),
        TwoLogitTower((4, 3)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_configurations_hold_the_options(layer):
    text = keras.saving.serialize_keras_object(layer)
    again = keras.saving.deserialize_keras_object(text)
    assert again.get_config() == layer.get_config()
    for name in ("edges", "normalization", "use_bias", "hidden_units"):
        if hasattr(layer, name):
            assert getattr(again, name) == getattr(layer, name)
