"""Many values, numbers, contexts, behaviors' own features, several labels."""

import keras
import numpy as np
import pytest
from ranker_testing import oracles
from ranker_testing.data import OWN, SMALL, fill_table, padded, ranker_inputs

from muse_keras.compat import PublishedMUSE
from muse_keras.losses import ImpressionCrossentropy
from muse_keras.models import DIN, MUSE, SearchRanker
from muse_keras.optimizers import RowSparseAdam

ON_JAX = keras.backend.backend() == "jax"
not_on_jax = pytest.mark.skipif(ON_JAX, reason="the same code as on PyTorch")
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
# First column and number of values of features of many.
MANY = {
    "user_features": [(1, 3)],
    "candidate_features": [(1, 3), (4, 2)],
    "behavior_features": [(0, 3), (6, 2)],
    "context_features": [(1, 2)],
}
POSITION = 3  # Column of the context that is of training alone.
OF_CANDIDATES = ("candidate", "context")


def ranker(cls=MUSE, **arguments):
    """A ranker whose weights are random."""
    options = {} if cls is DIN else {"k": 5}
    model = cls(**{**OWN, **options, **arguments})
    fill_table(model)
    rng = np.random.default_rng(2)
    for weight in model.trainable_variables:
        weight.assign(rng.normal(size=weight.shape) * 0.5)
    return model


@pytest.fixture(scope="module")
def model():
    return ranker()


def requests(seed=0, layout=OWN, **sizes):
    return ranker_inputs(np.random.default_rng(seed), layout=layout, **sizes)


def logits(model, inputs):
    return keras.ops.convert_to_numpy(model(inputs))


def test_every_candidate_has_a_logit_for_each_label(model):
    inputs = requests()
    result = logits(model, inputs)
    assert result.shape == (3, 4, 2)
    symbols = {
        name: keras.KerasTensor(array.shape, str(array.dtype))
        for name, array in inputs.items()
    }
    assert model.compute_output_spec(symbols).shape == (3, 4, 2)
    parts = model.explain(inputs)
    for place, name in enumerate(("click", "buy")):
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(parts[f"{name}_probability"]),
            oracles.sigmoid(result[..., place]),
            atol=1e-5,
        )


def test_a_score_is_of_its_candidate_and_the_request(model):
    inputs = requests(1)
    expected = logits(model, inputs)
    order = np.array([2, 0, 3, 1])
    moved = {
        name: value[:, order] if name.startswith(OF_CANDIDATES) else value
        for name, value in inputs.items()
    }
    np.testing.assert_allclose(
        logits(model, moved), expected[:, order], **CLOSE
    )
    if not ON_JAX:  # Another shape would be compiled anew.
        wider = padded(padded(inputs, "candidate", 2), "behavior", 3)
        np.testing.assert_allclose(
            logits(model, wider)[:, :4], expected, **CLOSE
        )


def test_the_order_of_values_and_their_gaps_do_not_matter(model):
    inputs = requests(2)
    expected = logits(model, inputs)
    for name, places in MANY.items():
        turned = dict(inputs)
        turned[name] = inputs[name].copy()
        for start, count in places:
            columns = slice(start, start + count)
            turned[name][..., columns] = inputs[name][..., columns][..., ::-1]
        assert (turned[name] != inputs[name]).any()
        np.testing.assert_allclose(logits(model, turned), expected, **CLOSE)


@pytest.mark.parametrize(
    "name",
    [
        "user_features",
        "user_numbers",
        "behavior_features",
        "candidate_features",
        "candidate_numbers",
        "candidate_matches",
        "context_features",
        "context_numbers",
    ],
)
def test_every_column_is_looked_at_but_those_of_training(model, name):
    inputs = requests(3)
    for column in range(inputs[name].shape[-1]):
        changed = dict(inputs)
        changed[name] = inputs[name].copy()
        values = changed[name][..., column]
        is_zero = values == 0
        changed[name][..., column] = np.where(is_zero, 1, 0)
        differs = logits(model, changed) != logits(model, inputs)
        of_training = (name, column) == ("context_features", POSITION)
        assert differs.any() == (not of_training), column


def test_features_of_training_are_missing_in_a_tenth_of_it():
    model = DIN(
        **SMALL,
        context_sizes={"device": 3, "position": (4, 2)},
        training_only=("position",),
        seed=1,
    )
    for name in ("device", "position"):
        table = model.feature_embeddings[name].embeddings
        values = np.ones(table.shape)
        values[0] = 0.0
        table.assign(values)
    context = keras.ops.ones((3000, 4, 3), dtype="int32")
    device, position = (
        keras.ops.convert_to_numpy(part)
        for part in model._context({"context_features": context}, True)
    )
    assert (device == 1).all()
    of_request = position.reshape(3000, -1)
    assert (of_request == of_request[:, :1]).all()
    assert 0.07 < 1 - of_request[:, 0].mean() < 0.13


@not_on_jax
@pytest.mark.parametrize(
    ("gsu", "esu"),
    [
        ("none", "ta"),
        ("category", "sa_ta"),
        ("id_cosine", "ta_simtier"),
        ("scl_cosine", "sa_ta_simtier"),
        ("target_attention", "ta"),
        ("simhash", "ta"),
        ("dual", "ta"),
        ("none", "sdim"),
    ],
)
def test_every_long_part_sees_behaviors_own_features(gsu, esu):
    model = ranker(SearchRanker, gsu=gsu, esu=esu, recent=1)
    inputs = requests(4)
    inputs["behavior_mask"][:] = True
    before = logits(model, inputs)
    # All but the newest one, which the short-term part looks at.
    actions = inputs["behavior_features"][:, :-1, 4]
    actions[:] = (actions + 1) % 5
    assert (logits(model, inputs) != before).any(axis=(1, 2)).all()


@not_on_jax
@pytest.mark.parametrize("esu", ["sa_ta_simtier", "sdim"])
def test_own_features_that_are_missing_add_the_vector_of_missing(esu):
    without = OWN | {"behavior_sizes": {}}
    plain = ranker(SearchRanker, **without, esu=esu, seed=3)
    model = ranker(SearchRanker, esu=esu, seed=3)
    others = iter(plain.weights)
    own = [model.feature_embeddings[n] for n in ("action", "since", "rooms")]
    ids = {id(layer.embeddings) for layer in own}
    for weight in model.weights:
        if id(weight) in ids:
            values = keras.ops.convert_to_numpy(weight).copy()
            values[0] = 0.0
            weight.assign(values)
        else:
            weight.assign(next(others))
    inputs = requests(5)
    inputs["behavior_features"][..., 4:] = 0
    found = logits(model, inputs)
    inputs["behavior_features"] = inputs["behavior_features"][..., :4]
    np.testing.assert_allclose(found, logits(plain, inputs), **CLOSE)


@not_on_jax
def test_trains_on_several_labels_saves_and_reloads(tmp_path):
    keras.utils.set_random_seed(1)
    model = MUSE(**OWN, k=5, oov_rate=0.1, seed=1)
    fill_table(model)
    model.compile(
        RowSparseAdam(1e-2, table_learning_rate=5e-2),
        ImpressionCrossentropy(),
        run_eagerly=keras.backend.backend() == "tensorflow",
    )
    inputs = requests(6, batch=16)
    labels = np.stack(
        [
            inputs["context_features"][..., 0] > 1,  # the device
            inputs["candidate_numbers"][..., 1] > 0.0,
        ],
        axis=-1,
    ).astype("float32")
    weights = np.ones((16, 4), "float32")
    losses = model.fit(
        inputs, labels, sample_weight=weights, epochs=12, verbose=0
    ).history["loss"]
    assert losses[-1] < 0.8 * losses[0]
    model.save(tmp_path / "own.keras")
    loaded = keras.saving.load_model(tmp_path / "own.keras")
    assert loaded.get_config() == model.get_config()
    assert loaded.item_sizes == OWN["item_sizes"]
    np.testing.assert_allclose(
        logits(loaded, inputs), logits(model, inputs), atol=1e-6
    )
    assert model.share_oov_row(model.optimizer) > 0


@not_on_jax
def test_mixed_precision_is_close(model):
    half = ranker(dtype="mixed_float16")
    for target, source in zip(half.weights, model.weights, strict=True):
        assert target.dtype == source.dtype
        target.assign(source)
    inputs = requests(7)
    rough = logits(half, inputs)
    assert rough.dtype == np.float32
    np.testing.assert_allclose(
        rough, logits(model, inputs), rtol=0.05, atol=0.05
    )


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("user_features", "5 columns: age, likes (3), income"),
        ("candidate_features", "7 columns: category, tags (3), labels (2), "),
        ("behavior_features", "8 columns: tags (3), category, action, since, "),
        ("context_features", "4 columns: device, topics (2), position."),
        ("user_numbers", "2 columns. Received: user_numbers.shape=(3, 1)"),
        ("candidate_numbers", "3 columns."),
        ("context_numbers", "1 columns."),
    ],
)
def test_a_wrong_or_missing_group_is_named(model, name, columns):
    inputs = requests()
    inputs[name] = inputs[name][..., :-1]
    with pytest.raises(ValueError) as error:
        model.check_inputs(inputs)
    assert f"`{name}` must have {columns}" in str(error.value)
    del inputs[name]
    with pytest.raises(ValueError, match=f"`inputs` must have {name}"):
        model.check_inputs(inputs)


@pytest.mark.parametrize(
    ("name", "column", "value", "what"),
    [
        ("user_features", 2, 6, "`user_features` .*of 'likes'.*: 6"),
        ("candidate_features", 5, 5, "of 'labels'.*: 5"),
        ("behavior_features", 3, -1, "of 'category'.*: -1"),
        ("behavior_features", 7, 4, "of 'rooms'.*: 4"),
        ("context_features", 2, 6, "of 'topics'.*: 6"),
        (
            "candidate_numbers",
            1,
            np.nan,
            "`candidate_num.* finite.*nan in co.*1",
        ),
        ("user_numbers", 0, np.inf, "`user_numbers` must.*inf in column 0"),
    ],
)
def test_values_that_mean_nothing_are_named(model, name, column, value, what):
    inputs = requests()
    inputs[name][..., column][-1] = value
    with pytest.raises(ValueError, match=what):
        model.predict(inputs, verbose=0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"behavior_sizes": {"tags": 4}}, "`behavior_sizes`.*other than.*tags"),
        ({"context_sizes": {"age": 4}}, "`context_sizes`.*other than.*age"),
        (
            {"user_sizes": {"a": (4, 2, 1)}},
            r"`user_sizes\['a'\]` must be a num",
        ),
        ({"user_sizes": {"a": (4, 0)}}, r"`user_sizes\['a'\]`.*positive"),
        ({"user_numbers": -1}, "`user_numbers` must be an integer"),
        ({"training_only": ("action",)}, "`training_only`.*device, topics"),
        ({"labels": ("buy", "click")}, '`labels`.*"click" the first'),
        ({"labels": ()}, "`labels` must be different names"),
        ({"labels": "click"}, "`labels`.*labels='click'"),
    ],
)
def test_bad_arguments_are_named(changed, message):
    with pytest.raises(ValueError, match=message):
        DIN(**{**OWN, **changed})


def test_the_published_model_refuses_what_it_has_no_place_for():
    with pytest.raises(ValueError, match="context_sizes, user_numbers, tags"):
        PublishedMUSE(
            9,
            {"age": 3},
            {"tags": (5, 2)},
            context_sizes={"device": 3},
            user_numbers=1,
        )


def test_one_value_is_as_a_size_alone():
    assert DIN(9, {"age": (4, 1)}, {}).user_sizes == {"age": 4}
