"""The histogram at its edges."""

from fractions import Fraction

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ranker_testing import oracles

from muse_keras.layers import SimTier


def count(values, mask=None, tiers=20):
    layer = SimTier(tiers, scale="count", learnable=False)
    return keras.ops.convert_to_numpy(layer(values, mask=mask))


@pytest.mark.parametrize("tiers", [1, 2, 7, 20, 64])
def test_edges_belong_to_the_tier_above(tiers):
    edges = [
        np.float32(float(Fraction(2 * n, tiers) - 1)) for n in range(tiers)
    ]
    np.testing.assert_array_equal(
        count(np.array(edges)[:, None], tiers=tiers), np.eye(tiers)
    )
    below = np.nextafter(np.array(edges[1:], "float32"), np.float32(-2))
    # Backends may take the numbers next to 0 for 0: the next normal one.
    below = np.where(
        np.abs(below) < 1e-38, -np.finfo("float32").tiny, below
    ).astype("float32")
    if tiers > 1:
        np.testing.assert_array_equal(
            count(below[:, None], tiers=tiers), np.eye(tiers)[:-1]
        )


def test_the_ends_hold_what_rounding_put_outside():
    one = np.float32(1)
    high = [one, np.nextafter(one, np.float32(2)), np.float32(1.001)]
    result = count(np.array([high, [-x for x in high]], "float32"))
    assert result[0, -1] == 3 and result[0].sum() == 3
    assert result[1, 0] == 3 and result[1].sum() == 3


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([3, 20]))
def test_against_counting_one_by_one(seed, tiers):
    rng = np.random.default_rng(seed)
    # Multiples of 0.1 meet the edges of 20 tiers.
    values = rng.integers(-10, 11, (2, 3, 9)).astype("float32") / np.float32(10)
    mask = rng.random(values.shape) < 0.6
    expected = oracles.tier_counts(values, mask, tiers)
    np.testing.assert_array_equal(count(values, mask, tiers), expected)
    order = rng.permutation(9)
    np.testing.assert_array_equal(
        count(values[..., order], mask[..., order], tiers), expected
    )


def test_scales():
    values = np.array([[0.5, 0.6, -0.5, 0.9]], "float32")
    mask = np.array([[True, True, True, False]])
    expected = {
        "count": [1.0, 2.0],
        "log1p": [np.log(2.0), np.log(3.0)],
        "fraction": [1 / 3, 2 / 3],
    }
    for scale, tiers in expected.items():
        layer = SimTier(2, scale=scale)
        layer.build()
        layer.tier_weights.assign([2.0, -1.0])
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(layer(values, mask=mask))[0],
            np.array(tiers) * [2.0, -1.0],
            rtol=1e-6,
        )
        raw = keras.ops.convert_to_numpy(layer.count(values, mask))
        np.testing.assert_array_equal(raw[0], [1.0, 2.0])


@pytest.mark.parametrize("scale", ["count", "log1p", "fraction"])
def test_nothing_real_is_zero(scale):
    layer = SimTier(4, scale=scale)
    result = layer(np.ones((2, 3), "float32"), np.zeros((2, 3), bool))
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(result), 0.0)


@pytest.mark.parametrize("edges", ["floor", "ceil"])
@pytest.mark.parametrize("mask", [None, [[True, True, False]]])
def test_nan_counts_nowhere(edges, mask):
    layer = SimTier(4, scale="count", learnable=False, edges=edges)
    values = np.array([[np.nan, 0.2, np.nan]], "float32")
    mask = None if mask is None else np.array(mask)
    found = keras.ops.convert_to_numpy(layer(values, mask=mask))
    expected = layer(np.array([[0.2]], "float32"))
    np.testing.assert_array_equal(found, keras.ops.convert_to_numpy(expected))


def test_half_precision_moves_nothing_across_an_edge():
    """float16 would round 0.09999 up to the edge."""
    values = np.array([[0.09999, 0.1]], "float32")
    layer = SimTier(20, scale="count", learnable=False, dtype="mixed_float16")
    result = keras.ops.convert_to_numpy(layer(values))
    assert result.dtype == np.float16
    assert result[0, 10] == 1 and result[0, 11] == 1


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="`scale` must be one of"):
        SimTier(scale="log")
    with pytest.raises(ValueError, match="`num_tiers` must be a positive"):
        SimTier(0)
