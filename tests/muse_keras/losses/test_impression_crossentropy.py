"""The log loss of impressions."""

import keras
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from muse_keras.losses import ImpressionCrossentropy


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_formula_weights_and_padding(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, 2, (3, 4)).astype("float32")
    logits = rng.normal(0, 3, (3, 4)).astype("float32")
    weights = rng.random((3, 4)).astype("float32")
    chance = 1 / (1 + np.exp(-logits.astype("float64")))
    each = -np.where(labels == 1, np.log(chance), np.log1p(-chance))
    each = np.where(labels < 0, 0.0, each)
    loss = ImpressionCrossentropy(reduction="none")
    actual = keras.ops.convert_to_numpy(loss(labels, logits))
    np.testing.assert_allclose(actual, each, rtol=2e-5, atol=1e-6)
    mean = ImpressionCrossentropy()(labels, logits, weights)
    np.testing.assert_allclose(
        float(mean), (each * weights).mean(), rtol=2e-5, atol=1e-6
    )


def test_certain_logits_stay_finite():
    loss = ImpressionCrossentropy(reduction="none")
    result = loss(
        np.array([[1, 0, 0]]), np.array([[-1e4, 1e4, -1e4]], "float32")
    )
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(result), [[1e4, 1e4, 0.0]]
    )


def test_config():
    stored = keras.saving.serialize_keras_object(
        ImpressionCrossentropy(reduction="sum")
    )
    again = keras.saving.deserialize_keras_object(stored)
    assert isinstance(again, ImpressionCrossentropy)
    assert again.reduction == "sum"
