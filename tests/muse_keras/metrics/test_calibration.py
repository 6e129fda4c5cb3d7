"""Calibration keeps both sums."""

import keras
import numpy as np
import pytest

from muse_keras.metrics import Calibration


def test_sums_over_updates_not_a_mean_of_quotients():
    rng = np.random.default_rng(0)
    metric = Calibration()
    labels = (rng.random(100) < 0.2).astype("float32")
    scores = rng.random(100).astype("float32")
    weights = rng.random(100).astype("float32")
    for part in (slice(0, 3), slice(3, 90), slice(90, 100)):
        metric.update_state(labels[part], scores[part], weights[part])
    expected = (scores * weights).sum() / (labels * weights).sum()
    np.testing.assert_allclose(float(metric.result()), expected, rtol=1e-6)
    metric.reset_state()
    assert float(metric.result()) == 0.0


def test_logits_and_padding():
    metric = Calibration(from_logits=True)
    metric.update_state(
        np.array([[1.0, 0.0, -1.0]]), np.array([[0.0, 0.0, 50.0]])
    )
    assert float(metric.result()) == 1.0
    impressions = keras.ops.convert_to_numpy(metric.impressions)
    assert impressions.sum() == 2.0


def test_small_batches_still_count_in_a_large_sum():
    """float32 alone stops at 2**24."""
    metric = Calibration()
    big = np.float32(2.0**25)
    metric.update_state([1.0], [1.0], [big])
    for _ in range(64):
        metric.update_state([1.0], [2.0], [1.0])
    expected = (2.0**25 + 128) / (2.0**25 + 64)
    sums = keras.ops.convert_to_numpy(metric.predicted).astype("float64")
    assert sums.sum() == 2.0**25 + 128
    np.testing.assert_allclose(float(metric.result()), expected, rtol=1e-7)


def test_config():
    metric = Calibration(from_logits=True, name="c")
    again = Calibration.from_config(metric.get_config())
    assert again.from_logits and again.name == "c"


def test_inside_compile():
    rng = np.random.default_rng(0)
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(1, activation="sigmoid")]
    )
    model.compile(loss="mse", weighted_metrics=[Calibration()])
    x = rng.normal(size=(20, 3)).astype("float32")
    y = rng.integers(0, 2, (20, 1)).astype("float32")
    weight = rng.random(20).astype("float32")
    results = model.evaluate(
        x, y, sample_weight=weight, batch_size=6, verbose=0, return_dict=True
    )
    scores = model.predict(x, verbose=0)[:, 0]
    expected = (scores * weight).sum() / (y[:, 0] * weight).sum()
    np.testing.assert_allclose(results["calibration"], expected, rtol=1e-5)


def test_weights_of_requests_hold_for_their_candidates():
    rng = np.random.default_rng(1)
    labels = (rng.random((3, 3)) < 0.5).astype("float32")
    scores = rng.random((3, 3)).astype("float32")
    weights = np.array([0.0, 1.0, 4.0], "float32")
    total = (scores * weights[:, None]).sum(), (labels * weights[:, None]).sum()
    for given in (weights, weights[:, None]):
        metric = Calibration()
        metric.update_state(labels, scores, given)
        np.testing.assert_allclose(
            float(metric.result()), total[0] / total[1], rtol=1e-5
        )


@pytest.mark.parametrize("shape", [(2,), (2, 1), (3, 2, 1)])
def test_weights_that_would_be_broadcast_are_refused(shape):
    labels = np.ones((3, 2), "float32")
    with pytest.raises(ValueError, match="`sample_weight` must have"):
        Calibration().update_state(labels, labels, np.ones(shape, "float32"))
    with pytest.raises(ValueError, match="`y_pred` must have"):
        Calibration().update_state(labels, np.ones(shape, "float32"))
