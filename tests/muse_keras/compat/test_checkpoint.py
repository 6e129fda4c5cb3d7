"""Checkpoints of the published implementation give its probabilities."""

import importlib.util

import keras
import numpy as np
import pytest
from keras import ops
from ranker_testing.data import assign_codes

from muse_keras.compat import (
    PublishedMUSE,
    load_published_weights,
    read_state_dict,
)
from tests.muse_keras.compat import published

# JAX compiles each model anew.
not_on_jax = pytest.mark.skipif(
    keras.backend.backend() == "jax", reason="the same code as on PyTorch"
)
DIM, ITEMS, LENGTH = 4, 80, 70
UNITS = (8, 6, 5)
SIZES = {
    "150_2_180": ITEMS + 1,
    "151_2_180": 9,
    "213": 5,
    "214": 4,
    **dict(zip(published.FIELDS, (12, 3, 4, 5, 6, 7), strict=True)),
}


def new_model(**options):
    return PublishedMUSE(
        ITEMS,
        {name: SIZES[name] for name in published.FIELDS},
        {name: SIZES[name] for name in ("151_2_180", "213", "214")},
        ("151_2_180",),
        vector_dim=16,
        embedding_dim=DIM,
        hidden_units=UNITS,
        **options,
    )


@pytest.fixture(scope="module")
def checkpoint():
    rng = np.random.default_rng(5)
    dense = published.dense_weights(rng, DIM, (*UNITS, 2))
    tables = published.tables(rng, DIM, SIZES)
    codes = rng.integers(-127, 128, (ITEMS + 1, 16)).astype("int8")
    codes[0] = 0
    return dense, tables, codes


@pytest.fixture(scope="module")
def model(checkpoint):
    dense, tables, codes = checkpoint
    model = new_model()
    load_published_weights(model, dense, tables)
    assign_codes(model, codes)
    return model


@pytest.fixture(scope="module")
def requests():
    """Full histories, one of 30 behaviors, and none at all."""
    rng = np.random.default_rng(6)
    batch, count = 4, 3
    mask = np.arange(LENGTH) >= np.array([[0], [5], [40], [LENGTH]])
    rows = rng.integers(1, ITEMS + 1, (batch, LENGTH))
    # Each item once, so that no two similarities are the same.
    rows = np.array([rng.permutation(ITEMS)[:LENGTH] + 1 for _ in rows])
    categories = rng.integers(1, 9, (batch, LENGTH))
    listed = (batch, count)
    return {
        "user_features": np.stack(
            [rng.integers(0, SIZES[name], batch) for name in published.FIELDS],
            axis=1,
        ).astype("int32"),
        "behavior_rows": np.where(mask, rows, 0).astype("int32"),
        "behavior_features": np.where(mask, categories, 0)
        .astype("int32")
        .reshape(batch, LENGTH, 1),
        "behavior_mask": mask,
        "candidate_rows": rng.integers(1, ITEMS + 1, listed).astype("int32"),
        "candidate_features": rng.integers(
            [1, 0, 0], [9, 5, 4], (*listed, 3)
        ).astype("int32"),
    }


def logits(model, requests):
    if keras.backend.backend() == "jax":
        # Compiled as one function: one by one takes longer.
        return model.predict(requests, verbose=0)
    return ops.convert_to_numpy(model(requests))


def expected(checkpoint, requests):
    dense, tables, codes = checkpoint
    candidates = np.concatenate(
        [requests["candidate_rows"][..., None], requests["candidate_features"]],
        axis=2,
    )
    return np.array(
        [
            [
                published.probability(
                    dense, tables, codes, user, (rows, categories), candidate
                )
                for candidate in listed
            ]
            for user, rows, categories, listed in zip(
                requests["user_features"],
                requests["behavior_rows"],
                requests["behavior_features"][..., 0],
                candidates,
                strict=True,
            )
        ]
    )


def test_probabilities_are_the_published_ones(checkpoint, model, requests):
    wanted = expected(checkpoint, requests)
    found = 1.0 / (1.0 + np.exp(-logits(model, requests)))
    assert np.ptp(wanted) > 0.1
    np.testing.assert_allclose(found, wanted, atol=3e-6)


@pytest.mark.parametrize(
    "name",
    [
        "realtime_att.fact_fcs.0.linears.0.bias",
        "uni_att_v2.cosine_tau1",
        "uni_att_v2.cosine_tau2",
        "all_seq_image_res.rt_simtier.emb",
        "all_seq_image_res.uni_v2_simtier.emb",
        "fc_tower.act_layers.3.dice_gamma",
    ],
)
def test_every_kind_of_weight_matters(checkpoint, model, requests, name):
    """The comparison above would notice each of these."""
    dense, tables, codes = checkpoint
    scope, _, rest = name.partition(".")
    changed = {key: dict(value) for key, value in dense.items()}
    changed[scope][rest] = changed[scope][rest] * 2.0
    before = expected(checkpoint, requests)
    after = expected((changed, tables, codes), requests)
    assert np.abs(before - after).max() > 1e-4


@not_on_jax
def test_padding_can_be_left_out(checkpoint, model, requests):
    dense, tables, codes = checkpoint
    masked = new_model(count_padding=False)
    load_published_weights(masked, dense, tables)
    assign_codes(masked, codes)
    counted = logits(model, requests)
    found = logits(masked, requests)
    np.testing.assert_allclose(found[:2], counted[:2], atol=1e-5)
    assert np.abs(found[2:] - counted[2:]).max(axis=1).min() > 1e-3
    shorter = {
        name: value[:, 40:] if name.startswith("behavior") else value
        for name, value in requests.items()
    }
    again = logits(masked, shorter)
    np.testing.assert_allclose(found[2:], again[2:], atol=1e-5)


def test_flat_names_and_prefixes(checkpoint):
    dense, tables, _ = checkpoint
    flat = {
        f"module.{scope}.{name}": value
        for scope, values in dense.items()
        for name, value in values.items()
    }
    flat["module.fc_tower_aux.linears.0.weight"] = np.zeros((3, 3))
    model = new_model()
    load_published_weights(model, flat, tables["embedding_layers"])
    wanted = dense["fc_tower"]["linears.1.weight"].T
    kernel = ops.convert_to_numpy(model.tower.dense_layers[1].kernel)
    np.testing.assert_array_equal(kernel, wanted)
    table = ops.convert_to_numpy(model.item_embedding.embeddings)
    np.testing.assert_array_equal(
        table, tables["embedding_layers"]["150_2_180.weight"]
    )


def test_all_that_does_not_fit_is_listed(checkpoint):
    dense, tables, _ = checkpoint
    wrong = {key: dict(value) for key, value in dense.items()}
    del wrong["uni_att_v2"]["cosine_tau1"]
    wrong["fc_tower"]["linears.0.bias"] = np.zeros(3)
    wrong["fc_tower"]["linears.4.bias"] = np.zeros(3)
    model = new_model()
    before = model.get_weights()
    with pytest.raises(ValueError) as error:
        load_published_weights(model, wrong, tables)
    assert str(error.value).splitlines() == [
        "The weights do not fit the model:",
        "fc_tower.linears.0.bias has shape (3,), expected (8,)",
        "missing: uni_att_v2.cosine_tau1",
        "unexpected: fc_tower.linears.4.bias",
    ]
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    wrong = {key: dict(value) for key, value in dense.items()}
    wrong["uni_att_v2"]["cosine_tau1"] = np.zeros((2, 1))
    with pytest.raises(ValueError, match="is 0, similarities are divided"):
        load_published_weights(model, wrong)


@not_on_jax
def test_a_saved_model_scores_the_same(model, requests, tmp_path):
    path = tmp_path / "model.keras"
    model.save(path)
    again = keras.models.load_model(path)
    np.testing.assert_array_equal(
        logits(again, requests), logits(model, requests)
    )


@not_on_jax
@pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="no PyTorch"
)
def test_a_file_of_tensors(checkpoint, tmp_path):
    import torch

    dense, _, _ = checkpoint
    path = tmp_path / "dense.pt"
    torch.save(
        {
            scope: {name: torch.tensor(value) for name, value in part.items()}
            for scope, part in dense.items()
        },
        path,
    )
    found = read_state_dict(path)
    np.testing.assert_array_equal(
        found["realtime_att.query_fcs.0.linears.0.bias"],
        dense["realtime_att"]["query_fcs.0.linears.0.bias"],
    )
    load_published_weights(new_model(), found)


def test_without_pytorch_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(ImportError, match="mapping of names to arrays"):
        read_state_dict("dense.pt")
