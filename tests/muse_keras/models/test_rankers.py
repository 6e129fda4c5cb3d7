"""What a ranker's scores may and may not depend on."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ranker_testing import oracles
from ranker_testing.data import (
    BARE,
    NUM_ITEMS,
    OWN,
    RICH,
    SMALL,
    assign_codes,
    fill_table,
    padded,
    ranker_inputs,
)

from muse_keras.losses import ImpressionCrossentropy
from muse_keras.models import DIN, EST, MUSE, embedding_tables
from muse_keras.optimizers import RowSparseAdam
from muse_keras.tables import ItemTable, array_blocks

ON_JAX = keras.backend.backend() == "jax"
# JAX compiles each operation for each shape: there, all tests have one. Its
# scores are those of the other backends: test_exchange.py compares them.
not_on_jax = pytest.mark.skipif(ON_JAX, reason="the same code as on PyTorch")
HISTORY = ("behavior_rows", "behavior_features", "behavior_mask")
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
_CACHE = {}


def numpy(value):
    return keras.ops.convert_to_numpy(value)


def ranker(cls, seed=2, **arguments):
    """A ranker whose weights are random, averages included."""
    options = {} if cls is DIN else {"k": 5}
    model = cls(**{**SMALL, **options, **arguments})
    codes = fill_table(model)
    rng = np.random.default_rng(seed)
    for weight in model.trainable_variables:
        weight.assign(rng.normal(size=weight.shape) * 0.5)
    for layer in model.tower.activations:
        dim = (layer.alpha.shape[0],)
        layer.moving_mean.assign(rng.normal(size=dim))
        layer.moving_variance.assign(rng.uniform(0.5, 2.0, dim))
    return model, codes


# Of EST, the other backends run its block, its export and its files.
RANKERS = [MUSE, DIN, *([EST] if keras.backend.backend() == "torch" else [])]


@pytest.fixture(params=RANKERS, scope="module")
def model(request):
    return ranker(request.param)[0]


def logits(model, inputs):
    return numpy(model(inputs))


def requests(seed=0, **sizes):
    return ranker_inputs(np.random.default_rng(seed), **sizes)


@pytest.mark.parametrize("cls", [MUSE, DIN])
@pytest.mark.parametrize(
    ("layout", "length"),
    [(RICH, 12), (OWN, 12)]
    if ON_JAX
    else [(SMALL, 12), (SMALL, 3), (RICH, 12), (BARE, 9), (OWN, 12)],
)
def test_the_whole_model_against_numpy(cls, layout, length):
    model, codes = ranker(cls, **layout)
    inputs = requests(1, length=length, layout=layout)
    inputs["behavior_mask"][1] = False
    inputs["behavior_mask"][2] = np.arange(length) == 1
    actual = logits(model, inputs)
    oracle = oracles.Ranker(model, codes)
    for b in range(actual.shape[0]):
        for c in range(actual.shape[1]):
            expected = oracle.logit(inputs, b, c)
            np.testing.assert_allclose(actual[b, c], expected, **CLOSE)


@not_on_jax
@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("cls", [MUSE, DIN])
def test_scores_depend_on_the_request_and_the_candidate_only(cls, seed):
    if cls not in _CACHE:
        _CACHE[cls] = ranker(cls)[0]
    model = _CACHE[cls]
    rng = np.random.default_rng(seed)
    inputs = ranker_inputs(rng)
    expected = logits(model, inputs)

    order = rng.permutation(4)
    shuffled = {
        name: value[:, order] if name.startswith("candidate") else value
        for name, value in inputs.items()
    }
    np.testing.assert_allclose(
        logits(model, shuffled), expected[:, order], **CLOSE
    )

    batch = rng.permutation(3)
    moved = {name: value[batch] for name, value in inputs.items()}
    np.testing.assert_allclose(logits(model, moved), expected[batch], **CLOSE)

    # Padding in the middle of the history, with junk in it.
    cut, wide = int(rng.integers(0, 13)), dict(inputs)
    for name in HISTORY:
        value = inputs[name]
        shape = (3, 4, *value.shape[2:])
        junk = rng.integers(0, 5, shape).astype(value.dtype)
        if name == "behavior_mask":
            junk[:] = False
        wide[name] = np.concatenate(
            [value[:, :cut], junk, value[:, cut:]], axis=1
        )
    np.testing.assert_allclose(logits(model, wide), expected, **CLOSE)


@not_on_jax
def test_a_request_alone_scores_like_in_a_batch(model):
    inputs = requests()
    expected = logits(model, inputs)
    alone = {
        name: value[1:2, 2:3] if name.startswith("candidate") else value[1:2]
        for name, value in inputs.items()
    }
    np.testing.assert_allclose(
        logits(model, alone)[0, 0], expected[1, 2], **CLOSE
    )


@not_on_jax
def test_candidate_padding_changes_no_score(model):
    inputs = requests()
    expected = logits(model, inputs)
    longer = padded(inputs, "candidate", 3)
    assert not longer["candidate_mask"][:, 4:].any()
    result = logits(model, longer)
    np.testing.assert_allclose(result[:, :4], expected, **CLOSE)
    assert np.isfinite(result).all()
    del inputs["candidate_mask"]
    np.testing.assert_allclose(logits(model, inputs), expected, **CLOSE)


@not_on_jax
@pytest.mark.parametrize("length", [1, 4])
def test_without_history_scores_are_finite_and_all_equal(model, length):
    inputs = requests(length=length)
    inputs["behavior_mask"][:] = False
    first = logits(model, inputs)
    other = requests(9, length=length)
    for name in ("behavior_rows", "behavior_features"):
        inputs[name] = other[name]
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(logits(model, inputs), first)


@not_on_jax
def test_only_muse_sees_what_is_long_ago():
    """The oldest of many behaviors becomes the candidate's double."""
    for cls in (MUSE, DIN):
        model, codes = ranker(cls)
        inputs = requests(3)
        inputs["behavior_mask"][:] = True
        inputs["candidate_rows"][:] = 11
        before = logits(model, inputs)
        inputs["behavior_rows"][:, 0] = 13
        assert (codes[11] == codes[13]).all()
        changed = np.abs(logits(model, inputs) - before).min() > 1e-4
        assert changed == (cls is MUSE)


def test_explain_says_what_the_score_is_based_on():
    model, codes = ranker(MUSE)
    inputs = requests(4)
    parts = {name: numpy(x) for name, x in model.explain(inputs).items()}
    similarities, indices, found = oracles.top_k(
        codes[inputs["candidate_rows"]],
        codes[inputs["behavior_rows"]],
        inputs["behavior_mask"],
        5,
    )
    np.testing.assert_array_equal(parts["behavior_indices"], indices)
    np.testing.assert_allclose(parts["similarities"], similarities, atol=1e-6)
    np.testing.assert_array_equal(parts["mask"], found)
    np.testing.assert_array_equal(
        parts["tiers"], oracles.tier_counts(similarities, found, 20)
    )
    np.testing.assert_allclose(
        parts["attention"].sum(-1), found.any(-1).astype("float32"), atol=1e-5
    )
    assert not parts["attention"][~found].any()
    np.testing.assert_allclose(
        parts["click_probability"],
        oracles.sigmoid(logits(model, inputs)),
        atol=1e-6,
    )


@not_on_jax
def test_explain_of_din_is_about_the_newest():
    model, _ = ranker(DIN)
    inputs = requests(5)
    parts = {name: numpy(x) for name, x in model.explain(inputs).items()}
    for b, mask in enumerate(inputs["behavior_mask"]):
        newest = np.flatnonzero(mask)[::-1][: SMALL["recent"]]
        for c in range(4):
            shown = parts["behavior_indices"][b, c][parts["mask"][b, c]]
            np.testing.assert_array_equal(shown, newest)


def edge_ids():
    """Ids at the ends of int64, and small and negative ones."""
    limits = np.iinfo(np.int64)
    ids = np.array([limits.min, limits.min + 1, limits.max - 1, limits.max])
    return np.sort(np.concatenate([ids, np.arange(-28, 29, 1) * 3 - 1]))


@not_on_jax
def test_ids_and_rows_are_two_ways_to_say_the_same(model, tmp_path):
    ids = edge_ids()[:NUM_ITEMS]
    rng = np.random.default_rng(6)
    filler = np.setdiff1d(np.arange(500, 600), ids)[: NUM_ITEMS - ids.size]
    ids = np.sort(np.concatenate([ids, filler]))
    zeros = np.zeros(NUM_ITEMS, np.int64)
    table = ItemTable.write(
        tmp_path / "table",
        item_ids=ids,
        codes=rng.integers(-127, 128, (NUM_ITEMS, 8)).astype("int8"),
        features={"category": zeros, "city": zeros, "province": zeros},
        source="test",
    )
    codes = numpy(model.table.codes).copy()
    model.table.assign(table)
    inputs = requests(7)
    by_row = logits(model, inputs)
    # 7 is not in the table: unknown.
    raw = np.concatenate([[7], ids])
    for kind in ("behavior", "candidate"):
        inputs[f"{kind}_item_ids"] = raw[inputs.pop(f"{kind}_rows")]
    np.testing.assert_allclose(logits(model, inputs), by_row, **CLOSE)
    assign_codes(model, codes)


def compiled(model, rate=1e-2, in_graph=False):
    """Ready for `fit`: on TensorFlow step by step, for a graph takes seconds.

    One test below trains in a graph.
    """
    model.compile(
        RowSparseAdam(rate, table_learning_rate=5e-2),
        ImpressionCrossentropy(),
        run_eagerly=keras.backend.backend() == "tensorflow" and not in_graph,
    )
    return model


def fit(model, inputs, clicks, epochs):
    weight = inputs["candidate_mask"].astype("float32")
    return model.fit(
        inputs,
        clicks,
        sample_weight=weight,
        batch_size=8,
        epochs=epochs,
        shuffle=False,
        verbose=0,
    ).history["loss"]


@pytest.mark.parametrize("cls", [MUSE])
def test_training_saving_and_training_on(cls, tmp_path):
    rng = np.random.default_rng(8)
    inputs = ranker_inputs(rng, batch=16)
    inputs["candidate_mask"][:, 3] = False
    clicks = rng.integers(0, 2, (16, 4)).astype("float32")

    keras.utils.set_random_seed(1)
    model = compiled(cls(**SMALL, k=5), in_graph=True)
    fill_table(model)
    losses = fit(model, inputs, clicks, 4)
    some = {name: array[:3] for name, array in inputs.items()}
    model.save(tmp_path / "half.keras")
    loaded = keras.saving.load_model(tmp_path / "half.keras")
    assert type(loaded) is cls
    assert loaded.get_config() == model.get_config()
    half = logits(model, some)
    np.testing.assert_allclose(logits(loaded, some), half, atol=1e-6)
    losses += fit(model, inputs, clicks, 4)
    assert losses[-1] < 0.8 * losses[0]
    for weight in model.weights:
        assert np.isfinite(numpy(weight)).all(), weight.path
    # With the moments of before; a second graph would take seconds.
    loaded.run_eagerly = keras.backend.backend() == "tensorflow"
    fit(loaded, inputs, clicks, 4)
    whole = logits(model, some)
    np.testing.assert_allclose(logits(loaded, some), whole, atol=1e-3)
    assert np.abs(whole - half).max() > 1e-2


@not_on_jax
@pytest.mark.parametrize("layout", [SMALL, RICH])
def test_din_saves_and_reloads(layout, tmp_path):
    model, _ = ranker(DIN, **layout)
    model.save(tmp_path / "din.keras")
    loaded = keras.saving.load_model(tmp_path / "din.keras")
    assert type(loaded) is DIN
    assert loaded.get_config() == model.get_config()
    assert list(loaded.item_sizes) == list(layout["item_sizes"])
    inputs = requests(13, layout=layout)
    np.testing.assert_allclose(
        logits(loaded, inputs), logits(model, inputs), atol=1e-6
    )


def test_items_training_never_saw_share_the_unknown_row(monkeypatch):
    """Whether the table is one block or several."""
    rng = np.random.default_rng(9)
    inputs = ranker_inputs(rng, batch=16)
    for name in ("behavior_rows", "candidate_rows"):
        inputs[name] = inputs[name] // 2
    model = compiled(MUSE(**SMALL, k=5, oov_rate=0.2, seed=1))
    fill_table(model)
    table = model.item_embedding.embeddings
    before = numpy(table).copy()
    fit(model, inputs, np.ones((16, 4), "float32"), 2)
    trained = numpy(table).copy()
    assert (trained[0] != before[0]).all()
    untouched = (trained == before).all(axis=1)
    assert untouched[NUM_ITEMS // 2 + 1 :].all()
    expected = np.where(untouched[:, None], trained[0], trained)
    for block in (7, 1 << 16):
        monkeypatch.setattr(
            embedding_tables,
            "blocks",
            lambda size, block=block: array_blocks.blocks(size, block),
        )
        table.assign(trained)
        count = model.share_oov_row(model.optimizer)
        assert count == untouched.sum()
        np.testing.assert_array_equal(numpy(table), expected)


@not_on_jax
def test_oov_replacement_is_for_training_only(model):
    assert model.oov_rate == 0.0
    twin, _ = ranker(type(model), oov_rate=0.9)
    inputs = requests(10)
    np.testing.assert_array_equal(logits(twin, inputs), logits(twin, inputs))


@pytest.mark.parametrize("cls", [MUSE] if ON_JAX else [MUSE, DIN])
def test_mixed_precision_is_close(cls):
    model, _ = ranker(cls)
    half, _ = ranker(cls, dtype="mixed_float16")
    for target, source in zip(half.weights, model.weights, strict=True):
        assert target.dtype == source.dtype
        target.assign(source)
    inputs = requests(11)
    inputs["candidate_matches"][0] = 100_000.0
    inputs["behavior_mask"][1] = False
    full, rough = logits(model, inputs), logits(half, inputs)
    assert rough.dtype == np.float32
    np.testing.assert_allclose(rough, full, rtol=0.05, atol=0.05)


def test_trains_in_bfloat16():
    model = compiled(ranker(MUSE, dtype="mixed_bfloat16")[0])
    inputs = requests(13, batch=16)
    clicks = (inputs["candidate_rows"] % 2).astype("float32")
    losses = fit(model, inputs, clicks, 8)
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


def test_missing_inputs_are_named(model):
    inputs = requests()
    del inputs["behavior_mask"], inputs["candidate_rows"]
    with pytest.raises(ValueError) as error:
        model(inputs)
    assert "behavior_mask" in str(error.value)
    assert "candidate_item_ids (or candidate_rows)" in str(error.value)


@pytest.mark.parametrize(
    ("name", "place", "value", "what"),
    [
        ("user_features", (1, 4), 4, "of 'user_5'"),
        ("behavior_rows", (1, 2), NUM_ITEMS + 1, "the item table"),
        ("behavior_features", (1, 2, 0), 7, "of 'category'"),
        ("candidate_rows", (1, 2), NUM_ITEMS + 1, "the item table"),
        ("candidate_features", (1, 2, 0), -1, "of 'category'"),
        ("candidate_features", (1, 2, 1), 5, "of 'city'"),
        ("candidate_features", (1, 2, 2), 6, "of 'province'"),
    ],
)
def test_an_index_outside_its_vocabulary_is_refused(
    model, name, place, value, what
):
    inputs = requests()
    inputs[name][place] = value
    message = rf"`{name}` must be in \[0, \d+\).*{what}.*Received: {value}"
    model.compile(loss=ImpressionCrossentropy())
    clicks = np.ones((3, 4), "float32")
    for use in (model, model.predict, model.explain):
        with pytest.raises(ValueError, match=message):
            use(inputs)
    for use in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match=message):
            use(inputs, clicks)


def test_inputs_that_would_not_be_looked_at_are_refused(model):
    inputs = requests()
    more = {**inputs, "behavior_masks": inputs["behavior_mask"]}
    with pytest.raises(ValueError, match="also: behavior_masks"):
        model(more)
    ids = {**inputs, "candidate_item_ids": inputs["candidate_rows"]}
    with pytest.raises(ValueError, match="candidate_rows, not both"):
        model.predict(ids)
    symbols = {
        name: keras.KerasTensor(array.shape, str(array.dtype))
        for name, array in more.items()
    }
    with pytest.raises(ValueError, match="also: behavior_masks"):
        model(symbols)


@pytest.mark.parametrize("name", ranker_inputs(np.random.default_rng(0)))
def test_another_batch_or_length_is_refused(model, name):
    for change in (lambda array: array[:1], lambda array: array[:, :-1]):
        inputs = requests()
        inputs[name] = change(inputs[name])
        with pytest.raises(ValueError, match=f"`{name}`"):
            model(inputs)


def test_another_number_of_columns_is_refused(model):
    for name, columns in (
        ("candidate_features", "3 columns: category, city, province"),
        ("behavior_features", "1 columns: category"),
        ("candidate_matches", "1 columns: category"),
    ):
        inputs = requests()
        inputs[name] = inputs[name].repeat(2, axis=-1)
        with pytest.raises(ValueError, match=f"`{name}` must have {columns}"):
            model(inputs)
        del inputs[name]
        with pytest.raises(ValueError, match=f"`inputs` must have {name}"):
            model(inputs)


@not_on_jax
def test_groups_without_features_may_be_given(tmp_path):
    model, _ = ranker(MUSE, **BARE)
    inputs = requests(layout=BARE)
    empty = {
        "user_features": np.zeros((3, 0), "int32"),
        "behavior_features": np.zeros((3, 12, 0), "int32"),
        "candidate_features": np.zeros((3, 4, 0), "int32"),
        "candidate_matches": np.zeros((3, 4, 0), "float32"),
    }
    assert not empty.keys() & inputs.keys()
    expected = logits(model, inputs)
    np.testing.assert_array_equal(logits(model, inputs | empty), expected)
    model.save(tmp_path / "bare.keras")
    loaded = keras.saving.load_model(tmp_path / "bare.keras")
    np.testing.assert_allclose(logits(loaded, inputs), expected, atol=1e-6)
    inputs["behavior_features"] = np.zeros((3, 12, 1), "int32")
    with pytest.raises(ValueError, match="must have 0 columns. Rec"):
        model(inputs)


def test_class_weight_is_refused(model):
    with pytest.raises(ValueError, match="`class_weight`.*`sample_weight`"):
        model.fit(requests(), np.ones((3, 4)), class_weight={0: 1.0, 1: 5.0})


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="`oov_rate` must be a number in"):
        MUSE(**{**SMALL, "oov_rate": 1.0})
    with pytest.raises(ValueError, match="`recent` must be a positive"):
        DIN(**{**SMALL, "recent": 0})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"user_sizes": (4, 4)}, r"`user_sizes` must map.*\(4, 4\)"),
        ({"item_sizes": {"category": 0}}, r"`item_sizes\['category'\]`.*0"),
        ({"user_sizes": {"a/b": 3}}, "`user_sizes`.*letters.*'a/b'"),
        ({"item_sizes": {"user_5": 3}}, "`item_sizes`.*other than.*'user_5'"),
        ({"item_sizes": {"item": 3}}, "`item_sizes`.*other than item"),
        ({"behavior_features": ("brand",)}, "`behavior_features`.*category.*b"),
        ({"behavior_features": ("city", "city")}, "`behavior_features`.*diff"),
        ({"matches": ("city",)}, r"`matches`.*among category.*\('city',\)"),
        ({"behavior_features": ()}, "`matches`.*among none"),
    ],
)
def test_bad_features_are_named(changed, message):
    with pytest.raises(ValueError, match=message):
        DIN(**{**SMALL, **changed})


def test_an_index_outside_a_users_vocabulary_stays_in_its_feature(model):
    inputs = requests(12)
    inputs["user_features"][:] = 3
    expected = logits(model, inputs)
    inputs["user_features"] += 400
    tensors = {
        name: keras.ops.convert_to_tensor(array)
        for name, array in inputs.items()
    }
    np.testing.assert_array_equal(logits(model, tensors), expected)
