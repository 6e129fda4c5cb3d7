"""The log loss of impressions."""

import keras
import numpy as np
import pytest
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


@pytest.mark.parametrize("candidates", [1, 3, 5])
@pytest.mark.parametrize("reduction", ["none", "mean_with_sample_weight"])
def test_weights_of_requests_hold_for_their_candidates(candidates, reduction):
    rng = np.random.default_rng(candidates)
    labels = rng.integers(-1, 2, (3, candidates))
    logits = rng.normal(size=(3, candidates)).astype("float32")
    weights = np.array([0.0, 1.0, 4.0], "float32")
    loss = ImpressionCrossentropy(reduction=reduction)
    full = np.repeat(weights[:, None], candidates, 1)
    each = keras.ops.convert_to_numpy(
        ImpressionCrossentropy(reduction="none")(labels, logits)
    )
    expected = each * full
    if reduction != "none":
        expected = expected.sum() / full.sum()
    for form in (weights, weights[:, None], full):
        actual = keras.ops.convert_to_numpy(loss(labels, logits, form))
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_labels_have_weights_together_or_each_its_own():
    rng = np.random.default_rng(4)
    labels = rng.integers(-1, 2, (3, 2, 4))
    logits = rng.normal(size=(3, 2, 4)).astype("float32")
    each = np.logaddexp(0.0, logits.astype("float64")) - logits * labels
    each = np.where(labels < 0, 0.0, each)
    loss = ImpressionCrossentropy()
    for shape in ((3, 2, 4), (3, 2, 1), (3, 2), (3, 1), (3,)):
        weights = rng.random(shape).astype("float32")
        full = weights.reshape((*shape, *[1] * (3 - len(shape))))
        np.testing.assert_allclose(
            float(loss(labels, logits, weights)),
            (each * full).mean(),
            rtol=2e-5,
        )
    with pytest.raises(ValueError, match="`y_true` must have rank 3"):
        loss(labels[..., 0], logits)
    with pytest.raises(ValueError, match="`sample_weight` must have"):
        loss(labels, logits, np.ones((3, 4)))


@pytest.mark.parametrize("shape", [(4,), (4, 1), (3, 4), (3, 1, 1)])
def test_weights_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match="`sample_weight` must have"):
        ImpressionCrossentropy()(
            np.ones((3, 2)), np.ones((3, 2), "float32"), np.ones(shape)
        )


def test_labels_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="`y_true` must have rank 2"):
        ImpressionCrossentropy()(np.ones(3), np.ones((3, 1), "float32"))


def test_fit_weighs_requests_with_as_many_candidates_as_the_batch_requests():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(5, 2, 3)).astype("float32")
    clicks = rng.integers(0, 2, (5, 2)).astype("float32")
    weights = np.array([1.0, 0.0, 2.0, 5.0, 0.5])
    inputs = keras.Input((None, 3))
    logits = keras.layers.Dense(1)(inputs)
    model = keras.Model(inputs, keras.ops.max(logits, axis=-1))
    model.compile("sgd", ImpressionCrossentropy(), jit_compile=False)
    actual = model.evaluate(
        features, clicks, sample_weight=weights, batch_size=2, verbose=0
    )
    scores = model.predict(features, verbose=0).astype("float64")
    each = np.logaddexp(0.0, scores) - scores * clicks
    expected = (each * weights[:, None]).mean()
    np.testing.assert_allclose(actual, expected, rtol=1e-4)
    model.fit(features, clicks, sample_weight=weights, batch_size=2, verbose=0)


def test_config():
    stored = keras.saving.serialize_keras_object(
        ImpressionCrossentropy(reduction="sum")
    )
    again = keras.saving.deserialize_keras_object(stored)
    assert isinstance(again, ImpressionCrossentropy)
    assert again.reduction == "sum"
