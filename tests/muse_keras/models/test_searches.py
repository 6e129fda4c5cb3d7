"""Every search against brute force in NumPy."""

import keras
import numpy as np
import pytest
from keras import ops
from ranker_testing import oracles
from ranker_testing.searching import (
    DIM,
    WIDTH,
    best,
    cosines_at,
    numpy,
    positions,
    search,
    view_of,
    views,
)

from muse_keras._ops.blocks import top_products
from muse_keras._ops.hyperplanes import signs
from muse_keras.models import (
    CategorySearch,
    CosineSearch,
    DualSearch,
    IdCosineSearch,
    NewestSearch,
    SimHashSearch,
    TargetAttentionSearch,
)

K = 5
# JAX compiles each shape of each operation.
ON_JAX = keras.backend.backend() == "jax"
not_on_jax = pytest.mark.skipif(ON_JAX, reason="the same code as on PyTorch")
SEARCHES = {
    "newest": lambda: NewestSearch(K),
    "category": lambda: CategorySearch("category", K),
    "id_cosine": lambda: IdCosineSearch(K),
    "scl_cosine": lambda: CosineSearch(K),
    "target_attention": lambda: TargetAttentionSearch(K),
    "simhash": lambda: SimHashSearch(WIDTH, K, num_bits=9, seed=1),
    "simhash_vectors": lambda: SimHashSearch(
        DIM, K, num_bits=9, source="vectors", seed=1
    ),
    "dual": lambda: DualSearch(K),
}


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def id_cosines(candidates, behaviors):
    left = unit(candidates.embeddings.astype("float64"))
    return left @ unit(behaviors.embeddings.astype("float64")).swapaxes(1, 2)


def sides(vectors, planes):
    return np.where(vectors.astype("float64") @ planes >= 0, 1, -1)


def distances(candidates, behaviors, planes):
    """Hamming distances (B, C, L), bit by bit."""
    left, right = sides(candidates, planes), sides(behaviors, planes)
    return (left[:, :, None] != right[:, None]).sum(axis=-1)


def expected_positions(name, layer, candidates, behaviors):
    mask = behaviors.mask
    shape = (*candidates.rows.shape, mask.shape[1])
    if name == "newest":
        return best(np.zeros(shape), mask, K, newer_first=True)
    if name == "category":
        found = best(np.zeros(shape), mask, mask.shape[1], newer_first=True)
        return [
            [
                [
                    i
                    for i in row
                    if behaviors.features["category"][b, i] == category > 0
                ][:K]
                for row, category in zip(
                    found[b], candidates.features["category"][b], strict=True
                )
            ]
            for b in range(len(found))
        ]
    if name == "id_cosine":
        return best(id_cosines(candidates, behaviors), mask, K)
    if name == "target_attention":
        scores = candidates.queries @ behaviors.keys.swapaxes(1, 2)
        return best(scores, mask, K)
    if name == "simhash":
        scores = -distances(
            candidates.embeddings, behaviors.embeddings, numpy(layer.planes)
        )
        return best(scores, mask, K, newer_first=True)
    by_content = positions(
        oracles.top_k(candidates.vectors, behaviors.vectors, mask, K)
    )
    if name == "scl_cosine":
        return by_content
    if name == "simhash_vectors":
        has = behaviors.vectors.any(axis=-1)
        scores = -distances(
            candidates.vectors, behaviors.vectors, numpy(layer.planes)
        )
        found = best(scores, mask & has, K, newer_first=True)
        return [
            [
                row if candidates.vectors[b, c].any() else []
                for c, row in enumerate(found[b])
            ]
            for b in range(len(found))
        ]
    halves = best(id_cosines(candidates, behaviors), mask, K - K // 2)
    return [
        [
            first + [i for i in second if i not in first][: K // 2]
            for first, second in zip(halves[b], by_content[b], strict=True)
        ]
        for b in range(len(halves))
    ]


@pytest.mark.parametrize("length", [12] if ON_JAX else [12, 3])
@pytest.mark.parametrize("name", SEARCHES)
def test_equals_brute_force(name, length):
    candidates, behaviors = views(3, length=length)
    # Equal ones, and one without a vector.
    for values in (behaviors.embeddings, behaviors.keys, behaviors.vectors):
        values[:, 1] = values[:, 2]
    candidates.vectors[1, 2] = 0
    behaviors.inverse_norms[:, 1] = behaviors.inverse_norms[:, 2]
    layer = SEARCHES[name]()
    found = search(layer, candidates, behaviors)
    similarities, indices, mask = found
    assert indices.shape == (2, 3, K)
    assert positions(found) == expected_positions(
        name, layer, candidates, behaviors
    )
    assert not indices[~mask].any()
    np.testing.assert_allclose(
        similarities,
        cosines_at(candidates.vectors, behaviors.vectors, found),
        atol=1e-6,
    )


@not_on_jax
@pytest.mark.parametrize("name", SEARCHES)
def test_padding_is_never_found(name):
    candidates, behaviors = views(4)
    behaviors.mask[0] = False
    found = search(SEARCHES[name](), candidates, behaviors)
    similarities, _, mask = found
    assert not mask[0].any()
    assert not similarities[0].any()
    assert np.isfinite(similarities).all()
    for found_here in positions(found)[1]:
        assert behaviors.mask[1, found_here].all()
    assert mask[1].any()


@pytest.mark.parametrize(
    "name", ["target_attention", "dual"] if ON_JAX else SEARCHES
)
def test_no_gradient_flows_through(name):
    candidates, behaviors = views(5)
    layer = SEARCHES[name]()
    layer.build()

    def total(left, right, queries, keys):
        found = layer(
            view_of(candidates, embeddings=left, queries=queries),
            view_of(behaviors, embeddings=right, keys=keys),
        )
        # The embeddings themselves: a gradient to compare with.
        return ops.sum(found.similarities) + ops.sum(left)

    inputs = [
        ops.convert_to_tensor(array)
        for array in (
            candidates.embeddings,
            behaviors.embeddings,
            candidates.queries,
            behaviors.keys,
        )
    ]
    first, *others = gradients(total, inputs)
    np.testing.assert_array_equal(first, np.ones_like(first))
    assert all(x is None or not numpy(x).any() for x in others)
    assert not layer.trainable_variables


def gradients(function, inputs):
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(inputs)
            total = function(*inputs)
        return tape.gradient(total, inputs)
    if backend == "torch":
        leaves = [x.detach().requires_grad_() for x in inputs]
        function(*leaves).backward()
        return [leaf.grad for leaf in leaves]
    import jax

    return jax.grad(function, argnums=(0, 1, 2, 3))(*inputs)


@not_on_jax
def test_hashes_estimate_the_angle():
    """The share of differing bits is the angle over pi, up to chance."""
    rng = np.random.default_rng(6)
    angles = np.linspace(0.05, 3.0, 8)
    flat = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    vectors = np.zeros((9, WIDTH), "float32")
    vectors[1:, :2], vectors[0, 0] = flat, 1.0
    for bits in (64, 4096):
        planes = rng.normal(size=(WIDTH, bits)).astype("float32")
        found = numpy(signs(ops.convert_to_tensor(vectors), planes))
        share = (1 - found[1:] @ found[0] / bits) / 2
        assert np.abs(share - angles / np.pi).max() < 2.0 / np.sqrt(bits)


@not_on_jax
def test_many_bits_find_what_the_cosine_finds():
    """Behaviors at angles so far apart that no chance reorders them."""
    candidates, behaviors = views(7, batch=1, length=10, candidates=1)
    angles = np.random.default_rng(7).permutation(10) * 0.3
    behaviors.mask[:] = True
    behaviors.embeddings[:] = 0
    behaviors.embeddings[0, :, 0] = np.cos(angles)
    behaviors.embeddings[0, :, 1] = np.sin(angles)
    candidates.embeddings[:] = 0
    candidates.embeddings[0, 0, 0] = 2.0
    many = SimHashSearch(WIDTH, K, num_bits=2048, seed=2)
    cosine = IdCosineSearch(K)
    expected = [[np.argsort(angles)[:K].tolist()]]
    assert positions(search(many, candidates, behaviors)) == expected
    assert positions(search(cosine, candidates, behaviors)) == expected


@not_on_jax
def test_blocks_change_nothing():
    rng = np.random.default_rng(8)
    candidates = rng.integers(-3, 4, (2, 7, 4)).astype("float32")
    behaviors = rng.integers(-3, 4, (2, 11, 4)).astype("float32")
    mask = rng.random((2, 11)) < 0.8
    scores = candidates @ behaviors.swapaxes(1, 2)
    expected = best(scores, mask, K)
    inputs = [ops.convert_to_tensor(x) for x in (candidates, behaviors, mask)]
    for block in (1, 50, 1 << 20):
        values, places, found = map(numpy, top_products(*inputs, K, block))
        assert positions([values, places, found]) == expected
        chosen = np.take_along_axis(scores, places.astype("int64"), axis=2)
        np.testing.assert_array_equal(values, np.where(found, chosen, 0))


@not_on_jax
def test_a_long_history_is_searched_by_category():
    """Positions beyond float16 and behaviors of one category in a row."""
    rng = np.random.default_rng(9)
    candidates, behaviors = views(9, batch=1, length=100_000, candidates=2)
    behaviors.mask[:] = rng.random((1, 100_000)) < 0.5
    candidates.features["color"][0] = [1, 3]
    layer = CategorySearch("color", K)
    assert positions(search(layer, candidates, behaviors)) == [
        [
            np.flatnonzero(
                behaviors.mask[0] & (behaviors.features["color"][0] == color)
            )[::-1][:K].tolist()
            for color in (1, 3)
        ]
    ]


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="`k` must be a positive integer"):
        NewestSearch(0)
    with pytest.raises(ValueError, match="`k` must be an integer of"):
        DualSearch(1)
    with pytest.raises(ValueError, match="`num_bits` must be a positive"):
        SimHashSearch(4, num_bits=0)
    with pytest.raises(ValueError, match="`source` must be one of"):
        SimHashSearch(4, source="text")


def test_configurations_round_trip():
    for make in SEARCHES.values():
        layer = make()
        again = type(layer).from_config(layer.get_config())
        assert again.get_config() == layer.get_config()
