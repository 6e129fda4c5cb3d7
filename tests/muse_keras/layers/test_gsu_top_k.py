"""The search against a NumPy search, and its properties."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ranker_testing import oracles

from muse_keras.layers import GSUTopK


def search(candidates, behaviors, mask=None, **arguments):
    result = GSUTopK(**arguments)(candidates, behaviors, mask)
    return [keras.ops.convert_to_numpy(part) for part in result]


def assert_same(actual, expected):
    for left, right in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("low, high", [(-127, 128), (-1, 2)])
@pytest.mark.parametrize("length, k", [(40, 7), (5, 5), (3, 8), (1, 4)])
@pytest.mark.parametrize("block_size", [1, 70, 1 << 22])
def test_codes_are_searched_exactly(low, high, length, k, block_size):
    """Bit for bit, ties (many with codes of -1, 0, 1) included."""
    rng = np.random.default_rng(length)
    candidates = rng.integers(low, high, (3, 4, 3)).astype("int8")
    behaviors = rng.integers(low, high, (3, length, 3)).astype("int8")
    mask = rng.random((3, length)) < 0.8
    mask[2] = False
    actual = search(candidates, behaviors, mask, k=k, block_size=block_size)
    assert_same(actual, oracles.top_k(candidates, behaviors, mask, k))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_properties(seed):
    """Order of candidates, padding, and its place change nothing."""
    rng = np.random.default_rng(seed)
    candidates = rng.integers(-2, 3, (1, 4, 3)).astype("int8")
    behaviors = rng.integers(-2, 3, (1, 6, 3)).astype("int8")
    mask = rng.random((1, 6)) < 0.7
    similarities, indices, found = search(candidates, behaviors, mask, k=4)

    order = rng.permutation(4)
    shuffled = search(candidates[:, order], behaviors, mask, k=4)
    assert_same(
        shuffled, [similarities[:, order], indices[:, order], found[:, order]]
    )

    junk = rng.integers(-9, 9, (1, 2, 3)).astype("int8")
    no = np.zeros((1, 2), bool)
    padded = search(
        candidates,
        np.concatenate([junk, behaviors, junk], axis=1),
        np.concatenate([no, mask, no], axis=1),
        k=4,
    )
    assert_same(padded, [similarities, np.where(found, indices + 2, 0), found])
    assert (np.diff(similarities, axis=-1)[found[..., 1:]] <= 0).all()


def test_a_history_twice_as_long_finds_each_behavior_twice():
    rng = np.random.default_rng(3)
    candidates = rng.integers(-127, 128, (2, 3, 16)).astype("int8")
    behaviors = rng.integers(-127, 128, (2, 10, 16)).astype("int8")
    similarities, indices, _ = search(candidates, behaviors, k=4)
    doubled = search(candidates, np.tile(behaviors, (1, 2, 1)), k=8)
    np.testing.assert_array_equal(doubled[0], np.repeat(similarities, 2, -1))
    pairs = doubled[1].reshape(2, 3, 4, 2)
    np.testing.assert_array_equal(pairs[..., 0], indices)
    np.testing.assert_array_equal(pairs[..., 1], indices + 10)


def test_all_equal_similarities_keep_the_order_of_the_history():
    behaviors = np.full((1, 300, 4), 5, "int8")
    result = search(np.full((1, 2, 4), 9, "int8"), behaviors, k=20)
    np.testing.assert_allclose(result[0], 1.0, rtol=2e-7)
    np.testing.assert_array_equal(result[1], np.tile(np.arange(20), (1, 2, 1)))


def test_rank_two_candidates():
    rng = np.random.default_rng(4)
    candidates = rng.integers(-127, 128, (3, 8)).astype("int8")
    behaviors = rng.integers(-127, 128, (3, 9, 8)).astype("int8")
    flat = search(candidates, behaviors, k=4)
    full = search(candidates[:, None], behaviors, k=4)
    assert flat[0].shape == (3, 4)
    assert_same(flat, [part[:, 0] for part in full])


def test_parallel_codes_have_cosine_one_and_none_exceeds_it():
    rng = np.random.default_rng(5)
    codes = rng.integers(-40, 41, (1, 500, 128)).astype("int8")
    similarities, indices, _ = search(codes, codes * 3, k=1)
    np.testing.assert_array_equal(indices[0, :, 0], np.arange(500))
    np.testing.assert_allclose(similarities, 1.0, rtol=2e-7)
    assert similarities.max() <= 1.0


@pytest.mark.parametrize("length", [97, 1003])
def test_equal_codes_tie_wherever_they_stand(length):
    """In a vector loop or in its tail."""
    rng = np.random.default_rng(length)
    code = rng.integers(-127, 128, 128)
    behaviors = np.tile(code, (1, length, 1)).astype("int8")
    candidates = rng.integers(-127, 128, (1, 5, 128)).astype("int8")
    similarities, indices, _ = search(candidates, behaviors, k=length)
    assert (similarities == similarities[..., :1]).all()
    np.testing.assert_array_equal(indices[0], np.tile(range(length), (5, 1)))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_floats_of_any_length(dtype):
    """Cosines do not depend on how long vectors are, tiny and huge too."""
    rng = np.random.default_rng(6)
    candidates = rng.normal(size=(2, 3, 16))
    behaviors = rng.normal(size=(2, 12, 16))
    expected = np.einsum("bcd,bld->bcl", candidates, behaviors)
    expected /= np.linalg.norm(candidates, axis=-1)[:, :, None]
    expected /= np.linalg.norm(behaviors, axis=-1)[:, None]
    order = np.argsort(-expected, axis=-1)[..., :5]
    scales = (1e-3, 1.0, 1e3) if dtype == "float16" else (1e-25, 1.0, 1e25)
    for scale in scales:
        similarities, indices, found = search(
            (candidates * scale).astype(dtype), behaviors.astype(dtype), k=5
        )
        assert similarities.dtype == np.float32 and found.all()
        tolerance = 2e-3 if dtype == "float16" else 1e-6
        np.testing.assert_allclose(
            similarities,
            np.take_along_axis(expected, order, -1),
            atol=tolerance,
        )
        if dtype == "float32":
            np.testing.assert_array_equal(indices, order)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1, 129])
def test_a_candidate_with_no_number_finds_nothing(value, place):
    generator = np.random.default_rng(7)
    behaviors = generator.normal(size=(1, 6, 130)).astype("float32")
    candidates = generator.normal(size=(1, 3, 130)).astype("float32")
    expected = search(candidates, behaviors, k=4)
    candidates[0, 1, place] = value
    for got, wanted in zip(
        search(candidates, behaviors, k=4), expected, strict=True
    ):
        np.testing.assert_array_equal(got[0, [0, 2]], wanted[0, [0, 2]])
        assert not got[0, 1].any()


def test_zero_and_broken_vectors_are_never_found():
    behaviors = np.ones((1, 5, 2), "float32")
    behaviors[0, 0] = 0.0
    behaviors[0, 1, 0] = np.nan
    behaviors[0, 2, 1] = np.inf
    candidates = np.array([[[1.0, 1.0], [0.0, 0.0], [np.nan, 1.0]]], "float32")
    similarities, indices, found = search(candidates, behaviors, k=4)
    np.testing.assert_array_equal(indices[0, 0], [3, 4, 0, 0])
    np.testing.assert_array_equal(found[0, 0], [True, True, False, False])
    assert not found[0, 1:].any()
    assert not similarities[0, 1:].any() and np.isfinite(similarities).all()


def test_errors_name_the_argument():
    layer = GSUTopK()
    with pytest.raises(ValueError, match="`behaviors` must have rank 3"):
        layer(np.ones((2, 3), "int8"), np.ones((2, 3), "int8"))
    with pytest.raises(ValueError, match=r"`behaviors` must have .*any, 3\)"):
        layer(np.ones((2, 3), "int8"), np.ones((2, 5, 4), "int8"))
    with pytest.raises(ValueError, match="`k` must be a positive"):
        GSUTopK(k=0)
    with pytest.raises(ValueError, match="`block_size` must be a positive"):
        GSUTopK(block_size=-1)


@pytest.mark.tf
@pytest.mark.parametrize("block_size", [5, 100, 1 << 22])
def test_a_graph_of_unknown_shapes_gives_the_same(block_size):
    import tensorflow as tf

    rng = np.random.default_rng(8)
    layer = GSUTopK(k=6, block_size=block_size)
    graph = tf.function(
        lambda c, b, m: layer(c, b, m),
        input_signature=[
            tf.TensorSpec([None, None, 8], tf.int8),
            tf.TensorSpec([None, None, 8], tf.int8),
            tf.TensorSpec([None, None], tf.bool),
        ],
    )
    for batch, count, length in ((2, 5, 20), (1, 1, 3), (3, 4, 0), (2, 0, 5)):
        candidates = rng.integers(-3, 4, (batch, count, 8)).astype("int8")
        behaviors = rng.integers(-3, 4, (batch, length, 8)).astype("int8")
        mask = rng.random((batch, length)) < 0.8
        actual = [part.numpy() for part in graph(candidates, behaviors, mask)]
        assert_same(actual, oracles.top_k(candidates, behaviors, mask, 6))
