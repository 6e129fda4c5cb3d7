"""Dice: batch statistics, moving averages, masks, gradients."""

import keras
import numpy as np
import pytest
from ranker_testing import oracles
from ranker_testing.gradients import check_gradients

from muse_keras.layers import Dice


def numpy(value):
    return keras.ops.convert_to_numpy(value)


def data(seed=0, size=(5, 4, 3)):
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=size) * [1.0, 5.0, 0.2] + [0, 30, -4]).astype(
        "float32"
    )
    return x, rng.random(size[:-1]) < 0.7


def test_training_uses_the_statistics_of_real_positions():
    x, mask = data()
    layer = Dice(alpha_initializer=keras.initializers.Constant(0.25))
    result = numpy(layer(x, mask=mask, training=True))
    real = x[mask].astype(np.float64)
    expected = oracles.dice(x, 0.25, real.mean(0), real.var(0), layer.epsilon)
    np.testing.assert_allclose(result, expected, atol=2e-4)
    junk = np.where(mask[..., None], x, 1e4).astype("float32")
    twin = Dice.from_config(layer.get_config())
    again = numpy(twin(junk, mask=mask, training=True))
    np.testing.assert_allclose(again[mask], result[mask], atol=2e-4)


def test_moving_averages_have_no_trace_of_their_start():
    layer = Dice(momentum=0.9)
    means, variances = [], []
    for seed in range(4):
        x, mask = data(seed)
        layer(x, mask=mask, training=True)
        means.append(x[mask].mean(0))
        variances.append(x[mask].var(0))
    weights = 0.9 ** np.arange(4)[::-1]
    for average, values in (
        (layer.moving_mean, means),
        (layer.moving_variance, variances),
    ):
        expected = np.average(values, axis=0, weights=weights)
        np.testing.assert_allclose(numpy(average), expected, rtol=1e-3)


def test_inference_is_row_by_row():
    layer = Dice()
    layer(*data(), training=True)
    x, _ = data(1)
    whole = numpy(layer(x))
    np.testing.assert_allclose(numpy(layer(x[2:3])), whole[2:3], rtol=1e-6)
    before = [numpy(w).copy() for w in layer.weights]
    layer(x, training=False)
    for weight, kept in zip(layer.weights, before, strict=True):
        np.testing.assert_array_equal(numpy(weight), kept)


def test_a_batch_of_padding_changes_no_average():
    layer = Dice()
    x, mask = data()
    layer(x, mask=mask, training=True)
    before = [numpy(w).copy() for w in layer.weights]
    result = layer(x, mask=np.zeros_like(mask), training=True)
    assert np.isfinite(numpy(result)).all()
    for weight, kept in zip(layer.weights, before, strict=True):
        np.testing.assert_array_equal(numpy(weight), kept)


def test_half_precision_statistics_do_not_overflow():
    rng = np.random.default_rng(0)
    x = rng.normal(300.0, 50.0, (2000, 2)).astype("float16")
    layer = Dice(dtype="mixed_float16")
    assert np.isfinite(numpy(layer(x, training=True))).all()
    variance = x.astype("float64").var(0)
    np.testing.assert_allclose(
        numpy(layer.moving_variance), variance, rtol=1e-2
    )


@pytest.mark.parametrize("training", [False, True])
def test_gradients(training):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(6, 2, 3)).astype("float32")
    mask = rng.random((6, 2)) < 0.8
    layer = Dice(
        alpha_initializer=keras.initializers.Constant(0.3), epsilon=0.1
    )
    layer(x, mask=mask)
    check_gradients(
        layer,
        {"inputs": x, "mask": mask},
        ["inputs"],
        rng,
        training=training,
    )


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="`momentum` must be a number in"):
        Dice(momentum=1.0)
    with pytest.raises(ValueError, match="`epsilon` must be a number in"):
        Dice(epsilon=0.0)
