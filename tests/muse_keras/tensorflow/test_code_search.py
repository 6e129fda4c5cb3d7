"""Long histories of codes against a float64 search of all of them."""

import contextlib
import functools

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from muse_keras.layers import GSUTopK  # noqa: E402
from muse_keras.tensorflow import (  # noqa: E402
    code_search,
    has_int8_products,
    int8_products,
)

pytestmark = pytest.mark.tf

LENGTH = 2 * code_search.SHORT + 7


@pytest.fixture(params=["float32", "int8"])
def products(request):
    """How scalar products are computed."""
    if request.param == "float32":
        return contextlib.nullcontext
    if not has_int8_products():
        pytest.skip("this processor has no 8-bit dot products")
    return int8_products


def unit_codes(rng, *shape):
    vectors = rng.normal(size=shape)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.trunc(127 * vectors).astype("int8")


def expected(candidates, behaviors, mask, k):
    """Positions of the highest exact cosines; -1 where there is none."""
    dots = candidates.astype("float64") @ behaviors.astype("float64").T
    squares = (behaviors.astype("float64") ** 2).sum(axis=-1)
    real = mask & (squares > 0)
    keys = dots * np.abs(dots) / np.where(real, squares, 1.0)
    keys = np.where(real, keys, -np.inf)
    order = np.argsort(-keys, axis=-1, kind="stable")[:, :k]
    chosen = np.take_along_axis(keys, order, axis=-1)
    order = np.where(np.isfinite(chosen), order, -1)
    order[~candidates.any(axis=-1)] = -1
    return np.pad(order, [(0, 0), (0, k - order.shape[1])], constant_values=-1)


@functools.cache
def searcher(products, k, **kwargs):
    """A graph: one for all tests of the same search and shapes."""
    return tf.function(GSUTopK(k=k, **kwargs).call, autograph=False)


def check(
    candidates, behaviors, mask=None, k=50, products=None, norms=False, **kwargs
):
    """Search one history (L, D) for candidates (C, D)."""
    mask = np.ones(len(behaviors), bool) if mask is None else mask
    inverse = None
    if norms:
        lengths = np.linalg.norm(behaviors.astype("float64"), axis=-1)
        inverse = np.divide(
            1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0
        ).astype("float32")[np.newaxis]
    with products():
        found = searcher(products, k, **kwargs)(
            *(tf.constant(x)[tf.newaxis] for x in (candidates, behaviors)),
            tf.constant(mask)[tf.newaxis],
            inverse,
        )
    wanted = expected(candidates, behaviors, mask, k)
    actual = np.where(found.mask[0], found.indices[0], -1)
    np.testing.assert_array_equal(actual, wanted)
    similarities = found.similarities[0].numpy()
    pairs = behaviors[np.maximum(wanted, 0)].astype("float64")
    dots = np.einsum("cd,ckd->ck", candidates.astype("float64"), pairs)
    scale = np.linalg.norm(pairs, axis=-1) * np.linalg.norm(
        candidates.astype("float64"), axis=-1, keepdims=True
    )
    cosines = dots / np.where(wanted < 0, 1.0, scale)
    np.testing.assert_allclose(
        similarities, np.where(wanted < 0, 0.0, cosines), atol=1e-7
    )
    assert (np.diff(similarities)[wanted[:, 1:] >= 0] <= 0).all()


@pytest.mark.parametrize("block_size", [1, 50_000, 1 << 25])
def test_finds_what_a_float64_search_finds(products, block_size):
    rng = np.random.default_rng(0)
    behaviors = unit_codes(rng, LENGTH, 128)
    behaviors[rng.random(LENGTH) < 0.1] = 0
    candidates = unit_codes(rng, 9, 128)
    candidates[4] = 0
    candidates[5] = behaviors[17]
    mask = rng.random(LENGTH) < 0.9
    check(
        candidates,
        behaviors,
        mask,
        products=products,
        block_size=block_size,
        norms=block_size > 1,
    )


def test_norms_of_all_sizes(products):
    """Bounds are loose when norms differ a lot within a block."""
    rng = np.random.default_rng(1)
    behaviors = rng.normal(size=(LENGTH, 16))
    behaviors *= np.exp(rng.normal(size=(LENGTH, 1)) + 2.0)
    behaviors = np.clip(behaviors, -128, 127).astype("int8")
    candidates = rng.integers(-128, 128, (5, 16)).astype("int8")
    check(candidates, behaviors, products=products, norms=True)


@pytest.mark.parametrize("copies", [3, 60, 900])
def test_a_history_of_repeated_items(products, copies):
    """More ties than are searched at first still come in order."""
    rng = np.random.default_rng(copies)
    items = unit_codes(rng, LENGTH // copies, 128)
    behaviors = items[rng.integers(0, len(items), LENGTH)]
    candidates = np.concatenate([items[:3], unit_codes(rng, 4, 128)])
    check(candidates, behaviors, products=products)


def test_nothing_alike(products):
    """All cosines are negative, or there are hardly any behaviors."""
    rng = np.random.default_rng(3)
    behaviors = np.abs(unit_codes(rng, LENGTH, 32))
    candidates = -np.abs(unit_codes(rng, 3, 32))
    check(candidates, behaviors, products=products)
    few = np.zeros(LENGTH, bool)
    few[rng.integers(0, LENGTH, 20)] = True
    check(candidates, behaviors, few, products=products)
    check(candidates, behaviors, np.zeros(LENGTH, bool), products=products)


def test_scaled_codes_tie(products):
    rng = np.random.default_rng(4)
    item = rng.integers(-40, 41, 24)
    behaviors = np.stack([item * (1 + i % 3) for i in range(LENGTH)])
    check(
        rng.integers(-9, 9, (2, 24)).astype("int8"),
        behaviors.astype("int8"),
        products=products,
    )


@pytest.mark.parametrize("k", [1, 300, LENGTH + 5])
def test_any_k(products, k):
    rng = np.random.default_rng(k)
    check(
        unit_codes(rng, 2, 16),
        unit_codes(rng, LENGTH, 16),
        k=k,
        products=products,
    )


def test_inverse_norms_give_back_every_square():
    """All squared norms of up to 128 codes, from float32."""
    squares = np.arange(0, 128 * 128**2 + 1)
    inverse = np.zeros(len(squares), np.float32)
    inverse[1:] = 1.0 / np.sqrt(squares[1:])
    np.testing.assert_array_equal(
        code_search.squares_of_inverse_norms(inverse), squares
    )


def test_graphs_of_unknown_shapes(products):
    rng = np.random.default_rng(6)
    layer = GSUTopK(k=7, block_size=1 << 16)
    with products():
        graph = tf.function(
            layer.call,
            autograph=False,
            input_signature=[
                tf.TensorSpec([None, None, 8], tf.int8),
                tf.TensorSpec([None, None, 8], tf.int8),
                tf.TensorSpec([None, None], tf.bool),
            ],
        ).get_concrete_function()
    for batch, count, length in (
        (2, 3, LENGTH),
        (1, 0, LENGTH),
        (3, 40, 2_000),
        (2, 3, 0),
        (0, 3, LENGTH),
    ):
        candidates = unit_codes(rng, batch, count, 8)
        behaviors = unit_codes(rng, batch, length, 8)
        mask = rng.random((batch, length)) < 0.9
        found = graph(*map(tf.constant, (candidates, behaviors, mask)))
        assert found.indices.shape == (batch, count, 7)
        for b in range(batch):
            np.testing.assert_array_equal(
                np.where(found.mask[b], found.indices[b], -1),
                expected(candidates[b], behaviors[b], mask[b], 7),
            )
