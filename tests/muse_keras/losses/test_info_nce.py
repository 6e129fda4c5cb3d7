"""InfoNCE against a loop over rows, and its temperature."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from ranker_testing.gradients import check_gradients, numpy

from muse_keras.losses import InfoNCE


def unit(rng, *shape):
    values = rng.normal(size=shape)
    values /= np.linalg.norm(values, axis=-1, keepdims=True)
    return values.astype("float32")


def oracle(queries, keys, ids, bank, temperature):
    """Row by row, negative by negative, in float64."""
    losses = []
    others = list(zip(keys, ids, strict=True))
    if bank is not None:
        others += [
            (key, item) for key, item, real in zip(*bank, strict=True) if real
        ]
    for query, key, item in zip(queries, keys, ids, strict=True):
        if not query.any() or not key.any():
            losses.append(0.0)
            continue
        positive = np.exp(query.astype("float64") @ key / temperature)
        negative = sum(
            np.exp(query.astype("float64") @ other / temperature)
            for other, other_item in others
            if other_item != item and other.any()
        )
        losses.append(-np.log(positive / (positive + negative)))
    return np.array(losses)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_formula(seed, with_bank):
    rng = np.random.default_rng(seed)
    queries, keys = unit(rng, 6, 4), unit(rng, 6, 4)
    queries[0] = keys[1] = 0.0
    # Few ids: accidental positives in the batch and in the bank.
    ids = rng.integers(1, 5, 6)
    bank = None
    if with_bank:
        bank = (unit(rng, 9, 4), rng.integers(1, 5, 9), rng.random(9) < 0.7)
    loss = InfoNCE(temperature=0.3)
    actual = numpy(loss(queries, keys, ids, *(bank or ())))
    expected = oracle(queries, keys, ids, bank, 0.3)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    weights = rng.random(6).astype("float32")
    weighted = loss(
        queries, keys, ids, *(bank or (None,) * 3), sample_weight=weights
    )
    np.testing.assert_allclose(numpy(weighted), actual * weights, atol=1e-5)


def test_order_of_the_bank_and_of_the_batch_do_not_matter():
    rng = np.random.default_rng(1)
    queries, keys, ids = unit(rng, 8, 4), unit(rng, 8, 4), np.arange(8)
    bank = unit(rng, 12, 4), np.arange(12), rng.random(12) < 0.5
    loss = InfoNCE()
    before = numpy(loss(queries, keys, ids, *bank))
    rows, columns = rng.permutation(8), rng.permutation(12)
    after = loss(
        queries[rows], keys[rows], ids[rows], *(x[columns] for x in bank)
    )
    np.testing.assert_allclose(numpy(after), before[rows], atol=1e-5)


def test_one_item_alone_costs_nothing():
    rng = np.random.default_rng(2)
    queries, keys = unit(rng, 5, 4), unit(rng, 5, 4)
    actual = InfoNCE()(queries, keys, np.full(5, 7))
    np.testing.assert_allclose(numpy(actual), 0.0, atol=1e-6)


def test_extreme_temperatures_stay_finite():
    vectors = np.eye(3, dtype="float32")
    for temperature in (0.01, 1.0):
        loss = InfoNCE(temperature)
        for keys in (vectors, -vectors):
            actual = numpy(loss(vectors, keys, np.arange(3)))
            assert np.isfinite(actual).all()


def test_gradients():
    rng = np.random.default_rng(3)
    inputs = {
        "queries": unit(rng, 4, 5),
        "keys": unit(rng, 4, 5),
        "item_ids": np.array([1, 2, 1, 3], "int32"),
        "bank_keys": unit(rng, 6, 5),
        "bank_ids": np.array([1, 2, 9, 9, 8, 7], "int32"),
        "bank_mask": np.array([True] * 5 + [False]),
    }
    loss = InfoNCE(temperature=0.5)
    check_gradients(loss, inputs, ["queries", "keys"], rng, step=3e-3)


@pytest.mark.parametrize("target", [0.01, 1.0])
def test_the_temperature_is_learned_and_stays_in_its_range(target):
    vectors = np.eye(4, dtype="float32")
    # Perfect pairs want a low temperature, wrong ones a high one.
    keys = vectors if target < 0.5 else np.roll(vectors, 1, axis=0)
    nodes = {
        "queries": keras.Input((4,)),
        "keys": keras.Input((4,)),
        "item_ids": keras.Input((), dtype="int32"),
    }
    loss = InfoNCE(temperature=0.5)
    model = keras.Model(nodes, loss(**nodes))
    model.compile(
        keras.optimizers.SGD(2.0),
        "mae",
        jit_compile=False,
        run_eagerly=keras.backend.backend() == "tensorflow",
    )
    inputs = {
        "queries": vectors,
        "keys": keys,
        "item_ids": np.arange(4, dtype="int32"),
    }
    seen = []
    for _ in range(3):
        model.fit(inputs, np.zeros(4), epochs=4, verbose=0)
        seen.append(float(ops.convert_to_numpy(loss.temperature)))
    assert abs(seen[0] - target) < abs(0.5 - target)
    assert 0.01 - 1e-6 <= min(seen) <= max(seen) <= 1.0 + 1e-6


def test_64_bit_ids_are_told_apart_or_refused():
    vectors = np.eye(2, dtype="float32")
    ids = np.array([5, 5 + 2**32])
    loss = InfoNCE(temperature=1.0)
    if keras.backend.backend() == "jax":
        with pytest.raises(ValueError, match="`item_ids` must fit 32 bits"):
            loss(vectors, vectors, ids)
        return
    expected = numpy(loss(vectors, vectors, np.array([5, 6])))
    np.testing.assert_array_equal(numpy(loss(vectors, vectors, ids)), expected)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="`temperature` must be between"):
        InfoNCE(temperature=2.0)
    vectors = np.eye(2, dtype="float32")
    with pytest.raises(ValueError, match="`item_ids` must be integers"):
        InfoNCE()(vectors, vectors, np.array([0.5, 1.0]))
    with pytest.raises(ValueError, match="`queries` must have rank 2"):
        InfoNCE()(vectors[0], vectors, np.array([1, 2]))
