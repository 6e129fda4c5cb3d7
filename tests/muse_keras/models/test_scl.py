"""Contrastive training: its loss, what moves when, and what it learns."""

import keras
import numpy as np
import pytest
from ranker_testing.gradients import numpy
from ranker_testing.searches import DIM, WIDTHS, scl, searches

from muse_keras.layers import SCLTower
from muse_keras.losses import CosineTripletLoss, InfoNCE
from muse_keras.models import SCL

ON_JAX = keras.backend.backend() == "jax"
# JAX compiles a step for each model and each size of a batch.
not_on_jax = pytest.mark.skipif(ON_JAX, reason="the same code as on PyTorch")


def compiled(model, rate=3e-3, in_graph=False):
    """Ready for `fit`: on TensorFlow step by step, for a graph takes seconds.

    A whole training below is in a graph, and test_replicas.py compares one
    with steps.
    """
    eager = keras.backend.backend() == "tensorflow" and not in_graph
    model.compile(keras.optimizers.Adam(rate), run_eagerly=eager)
    return model


def fit(model, inputs, **kwargs):
    return model.fit(inputs, shuffle=False, verbose=0, **kwargs).history


def values(layer):
    return [numpy(weight).copy() for weight in layer.weights]


def mean(loss, *arguments):
    return float(numpy(loss(*arguments)).mean())


@pytest.mark.parametrize("shared", [False] if ON_JAX else [True, False])
def test_one_step_is_the_formula(shared):
    inputs = searches(12)
    model = scl(shared, momentum=0.5, bank_weight=0.25, triplet_weight=2.0)
    # No step: the loss of exactly these weights, and of slow ones that differ.
    compiled(model, rate=0.0)
    fit(model, searches(12, seed=1), batch_size=12)
    slow = {model.slow_query_tower, model.slow_item_tower}
    assert len(slow) == (1 if shared else 2)
    before = []
    for tower in slow:
        for weight in tower.weights:
            weight.assign(numpy(weight) + 0.1)
    model.steps.assign(1000.0)
    banks = [
        tuple(numpy(x) for x in bank.contents())
        for bank in (model.item_bank, model.query_bank)
    ]
    before = {
        tower: [
            0.5 * old + 0.5 * new
            for old, new in zip(values(tower), values(trained), strict=True)
        ]
        for tower, trained in (
            (model.slow_query_tower, model.query_tower),
            (model.slow_item_tower, model.item_tower),
        )
    }
    history = fit(model, inputs, batch_size=12)
    for tower, expected in before.items():
        for actual, wanted in zip(values(tower), expected, strict=True):
            np.testing.assert_allclose(actual, wanted, atol=1e-6)

    ids = inputs["item_ids"]
    nce, triplet = InfoNCE(0.2), CosineTripletLoss(0.3)
    queries = numpy(model.embed_queries(inputs["query"]))
    items = numpy(model.embed_items(inputs["item"]))
    query_keys = numpy(model.slow_query_tower(inputs["query"]))
    item_keys = numpy(model.slow_item_tower(inputs["item"]))
    lists = [
        numpy(
            model.embed_items(
                {name: x[:, place] for name, x in inputs["negatives"].items()}
            )
        )
        for place in range(3)
    ]
    batch = mean(nce, queries, items, ids)
    bank = 0.5 * (
        mean(nce, queries, item_keys, ids, *banks[0])
        + mean(nce, items, query_keys, ids, *banks[1])
    )
    hard = mean(
        triplet, queries, items, np.stack(lists, 1), inputs["negative_mask"]
    )
    contrastive = 0.75 * batch + 0.25 * bank
    for name, expected in (
        ("info_nce", contrastive),
        ("triplet", hard),
        ("loss", contrastive + 2.0 * hard),
        ("temperature", 0.2),
    ):
        assert history[name][0] == pytest.approx(expected, abs=1e-4), name
    # 12 keys of the first step, then 12 more in a bank of 20.
    for bank, keys in (
        (model.item_bank, item_keys),
        (model.query_bank, query_keys),
    ):
        places = np.arange(12, 24) % 20
        np.testing.assert_allclose(numpy(bank.keys)[places], keys, atol=1e-6)
        assert numpy(bank.ids)[places].tolist() == ids.tolist()
        assert int(bank.position) == 4

    measured = model.evaluate(
        inputs, batch_size=12, verbose=0, return_dict=True
    )
    assert measured["info_nce"] == pytest.approx(batch, abs=1e-4)
    assert measured["loss"] == pytest.approx(batch + 2.0 * hard, abs=1e-4)


@not_on_jax
def test_the_first_step_forgets_the_random_start():
    model = compiled(scl())
    for weight in model.slow_query_tower.weights:
        weight.assign(numpy(weight) + 9.0)
    before = values(model.query_tower)
    fit(model, searches(), batch_size=24)
    for slow, start in zip(values(model.slow_query_tower), before, strict=True):
        np.testing.assert_array_equal(slow, start)


def test_validation_changes_nothing():
    model = compiled(scl(shared=False))
    fit(model, searches(), batch_size=8)
    before = values(model)
    model.evaluate(searches(seed=4), batch_size=8, verbose=0)
    model.predict(searches(seed=4), batch_size=8, verbose=0)
    for left, right in zip(values(model), before, strict=True):
        np.testing.assert_array_equal(left, right)


def test_learns_moves_every_weight_and_goes_on_after_a_reload(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = searches(48)
    model = compiled(scl(shared=False, dtype="float32"), 1e-2, in_graph=True)
    before = values(model)
    history = fit(model, inputs, batch_size=16, epochs=6)
    assert history["info_nce"][-1] < 0.7 * history["info_nce"][0]
    assert -1.0 <= history["mean_pairwise_cosine"][-1] <= 1.0
    for old, weight in zip(before, model.weights, strict=True):
        new = numpy(weight)
        assert np.isfinite(new.astype("float64")).all()
        # The bank of 20 has turned: 18 batches of 16 end at 288 % 20.
        assert (new != old).any(), weight.path
    model.save(tmp_path / "scl.keras")
    again = keras.saving.load_model(tmp_path / "scl.keras")
    for left, right in zip(values(model), values(again), strict=True):
        np.testing.assert_array_equal(left, right)
    # Both go on step by step: a graph and steps differ in the last bits, of
    # which the triplets' hinge and Adam can make much.
    for trained in (model, again):
        trained.run_eagerly = keras.backend.backend() == "tensorflow"
        trained.train_function = None
        fit(trained, inputs, batch_size=16, epochs=1)
    for left, right in zip(values(model), values(again), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-6)


@not_on_jax
def test_without_bank_and_without_hard_negatives():
    inputs = searches()
    model = compiled(scl(bank_size=0, triplet_weight=0.0))
    history = fit(model, inputs, batch_size=8, epochs=2)
    assert "triplet" not in history
    assert len(model.weights) == len(model.query_tower.weights) + 1
    vectors = model.predict(inputs, verbose=0)
    assert set(vectors) == {"query", "item"}
    # Hard negatives are optional where the loss knows them, too.
    del inputs["negatives"], inputs["negative_mask"]
    history = fit(compiled(scl()), inputs, batch_size=8)
    assert history["triplet"] == [0.0]


@not_on_jax
def test_sample_weights_scale_the_loss():
    inputs = searches(8)
    model = compiled(scl(bank_size=0))
    # Keras hands on weights together with labels only; these are not used.
    full, half = (
        model.evaluate(
            inputs,
            np.zeros(8),
            sample_weight=np.full(8, weight),
            verbose=0,
            return_dict=True,
        )
        for weight in (1.0, 0.5)
    )
    assert half["loss"] == pytest.approx(0.5 * full["loss"], rel=1e-5)


@not_on_jax
def test_embedding_takes_one_side_alone():
    model, inputs = scl(shared=False), searches()
    both = model.predict(inputs, verbose=0)
    assert both["negatives"].shape == (24, 3, DIM)
    one = model.predict({"item": inputs["item"]}, verbose=0)
    np.testing.assert_allclose(one["item"], both["item"], atol=1e-6)
    np.testing.assert_allclose(
        numpy(model.embed_queries(inputs["query"])), both["query"], atol=1e-6
    )
    assert abs(both["query"] - both["item"]).max() > 0.1


@not_on_jax
def test_regularization_of_an_encoder_counts():
    def model(strength):
        keras.utils.set_random_seed(3)
        encoder = keras.layers.Dense(
            4, kernel_regularizer=keras.regularizers.L2(strength)
        )
        tower = SCLTower({"text": 4}, (), 4, encoders={"text": encoder})
        return compiled(SCL(tower, bank_size=0, triplet_weight=0.0))

    inputs = searches()
    inputs = {
        "query": {"text": inputs["query"]["text"]},
        "item": {"text": inputs["item"]["text"]},
        "item_ids": inputs["item_ids"],
    }
    losses = {}
    for strength in (0.0, 0.1):
        built = model(strength)
        assert not built.built
        losses[strength] = fit(built, inputs, batch_size=24)["loss"][0]
    assert losses[0.1] > losses[0.0] + 0.01


@not_on_jax
def test_bfloat16_trains():
    model = compiled(scl(dtype="mixed_bfloat16"), 1e-2)
    history = fit(model, searches(48), batch_size=16, epochs=5)
    assert np.isfinite(history["loss"]).all()
    assert history["loss"][-1] < history["loss"][0]
    assert keras.backend.standardize_dtype(model.item_bank.keys.dtype) == (
        "float32"
    )


def test_ids_that_would_be_cut_are_refused():
    inputs = searches()
    inputs["item_ids"] = inputs["item_ids"].astype("int64") + 2**40
    model = compiled(scl())
    if ON_JAX:
        for call in (model.fit, model.evaluate):
            with pytest.raises(ValueError, match="must fit 32 bits"):
                call(inputs, verbose=0)
        return
    fit(model, inputs, batch_size=24)
    assert numpy(model.item_bank.ids).min() > 2**40


def test_missing_inputs_are_named():
    inputs = searches()
    del inputs["item"], inputs["item_ids"]
    with pytest.raises(ValueError, match="must have item, item_ids for a loss"):
        fit(compiled(scl()), inputs)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"bank_size": -1}, "bank_size"),
        ({"momentum": 1.0}, "momentum"),
        ({"bank_weight": 0.0}, "bank_weight"),
        ({"triplet_weight": -0.5}, "triplet_weight"),
    ],
)
def test_bad_arguments_are_named(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        SCL(SCLTower(WIDTHS), **arguments)
