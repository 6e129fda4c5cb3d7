"""The identity signal against loops in NumPy."""

import numpy as np
import pytest
from keras import ops

from muse_keras.layers import IdentitySignal

FINE = 5


def by_hand(similarities, same_item, ages, mask):
    """Return the features of one candidate, in float64."""
    features = []
    kinds = (same_item & mask, (similarities > 1 - 1e-5) & mask)
    features += [np.log1p(chosen.sum()) for chosen in kinds]
    for chosen in kinds:
        newest = ages[chosen].min() if chosen.any() else np.inf
        features.append(1 / (1 + np.log1p(newest)))
    for tier in range(FINE):
        low, high = 1 - 1 / 2 ** (4 + tier), 1 - 1 / 2 ** (5 + tier)
        if tier == FINE - 1:
            high = np.inf
        inside = (similarities >= low) & (similarities < high) & mask
        features.append(np.log1p(inside.sum()))
    return features


def call(*inputs, **options):
    return ops.convert_to_numpy(IdentitySignal(FINE, **options)(*inputs))


def test_against_numpy():
    rng = np.random.default_rng(5)
    shape = (3, 4, 30)
    # Edges of tiers, equal codes and all between; float32 holds the edges.
    choices = [1.0, 0.9999999, 0.5, -1.0, *(1 - 2.0 ** -np.arange(4, 12))]
    similarities = rng.choice(choices, shape).astype("float32")
    same_item = rng.random(shape) < 0.2
    ages = rng.integers(0, 1000, shape).astype("float32")
    mask = rng.random(shape) < 0.7
    mask[0, 0] = same_item[0, 1] = False
    found = call(similarities, same_item, ages, mask)
    for place in np.ndindex(shape[:2]):
        expected = by_hand(
            similarities[place].astype(np.float64),
            same_item[place],
            ages[place],
            mask[place],
        )
        np.testing.assert_allclose(found[place], expected, rtol=1e-5)
    assert not found[0, 0].any()


def test_what_is_masked_is_not_seen():
    similarities = np.array([[1.0, 1.0]], "float32")
    same = np.array([[True, True]])
    ages = np.array([[3.0, 0.0]], "float32")
    one = call(similarities[:, :1], same[:, :1], ages[:, :1])
    mask = np.array([[True, False]])
    np.testing.assert_array_equal(call(similarities, same, ages, mask), one)


def test_half_precision_moves_no_edge():
    below = np.float32(1 - 2.0**-8 - 2.0**-20)
    inputs = (np.array([[below]]), np.array([[False]]), np.zeros((1, 1), "f4"))
    exact = call(*inputs)
    half = call(*inputs, dtype="mixed_bfloat16")
    np.testing.assert_allclose(half.astype("f4"), exact, atol=1e-2)
    assert exact[0, 4 + 3] > 0 and exact[0, 4 + 4] == 0


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="`fine_tiers`"):
        IdentitySignal(fine_tiers=-1)
    with pytest.raises(ValueError, match="same_item"):
        IdentitySignal()(
            np.zeros((2, 3), "f4"), np.zeros((2, 4), bool), np.zeros((2, 3))
        )
