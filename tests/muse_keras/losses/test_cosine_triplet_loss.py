"""The triplet loss against a loop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ranker_testing.gradients import check_gradients, numpy

from muse_keras.losses import CosineTripletLoss


def unit(rng, *shape):
    values = rng.normal(size=shape)
    values /= np.linalg.norm(values, axis=-1, keepdims=True)
    return values.astype("float32")


def oracle(anchor, positive, negatives, mask, margin):
    losses = []
    for a, p, listed, real in zip(
        anchor, positive, negatives, mask, strict=True
    ):
        each = [
            max(0.0, margin + (1.0 - float(a @ p)) - (1.0 - float(a @ n)))
            for n, counts in zip(listed, real, strict=True)
            if counts and n.any() and a.any() and p.any()
        ]
        losses.append(np.mean(each) if each else 0.0)
    return np.array(losses)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_formula(seed):
    rng = np.random.default_rng(seed)
    anchor, positive = unit(rng, 6, 4), unit(rng, 6, 4)
    negatives, mask = unit(rng, 6, 3, 4), rng.random((6, 3)) < 0.6
    anchor[0] = positive[1] = negatives[2, 1] = 0.0
    mask[3] = False
    actual = CosineTripletLoss(0.4)(anchor, positive, negatives, mask)
    expected = oracle(anchor, positive, negatives, mask, 0.4)
    np.testing.assert_allclose(numpy(actual), expected, atol=1e-5)
    unmasked = CosineTripletLoss(0.4)(anchor, positive, negatives)
    expected = oracle(anchor, positive, negatives, np.ones((6, 3), bool), 0.4)
    np.testing.assert_allclose(numpy(unmasked), expected, atol=1e-5)


def test_masked_negatives_change_nothing():
    rng = np.random.default_rng(1)
    anchor, positive = unit(rng, 4, 5), unit(rng, 4, 5)
    negatives, mask = unit(rng, 4, 3, 5), np.array([[True, True, False]] * 4)
    loss = CosineTripletLoss()
    expected = numpy(loss(anchor, positive, negatives, mask))
    negatives[:, 2] = unit(rng, 4, 5)
    actual = loss(anchor, positive, negatives[:, ::-1], mask[:, ::-1])
    np.testing.assert_allclose(numpy(actual), expected, atol=1e-6)


def test_gradients():
    rng = np.random.default_rng(2)
    inputs = {
        "anchor": unit(rng, 3, 5),
        "positive": unit(rng, 3, 5),
        "negatives": unit(rng, 3, 2, 5),
        "mask": np.array([[True, False], [True, True], [False, False]]),
    }
    # Every hinge is open, far from its kink.
    loss = CosineTripletLoss(margin=4.0)
    check_gradients(loss, inputs, ["anchor", "positive", "negatives"], rng)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="`margin` must be a number in"):
        CosineTripletLoss(0.0)
    vectors = np.eye(2, dtype="float32")
    with pytest.raises(ValueError, match="`negatives` must have rank 3"):
        CosineTripletLoss()(vectors, vectors, vectors)
