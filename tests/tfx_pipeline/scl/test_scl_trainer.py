"""A small training of the tower, from events to a SavedModel."""

from __future__ import annotations

import json
import pathlib
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from muse_keras.callbacks import CollapsedError
from muse_tools.datasets.errors import DataError
from muse_tools.datasets.item_content import ItemContent
from tests.tfx_pipeline.scl import toy_search
from tfx_pipeline import config as config_lib
from tfx_pipeline.scl import export, trainer
from tfx_pipeline.training import checkpoints

pytestmark = pytest.mark.tf

CONFIG = config_lib.SCLConfig(
    hidden_units=(24,),
    bank_size=64,
    momentum=0.9,
    epochs=4,
    batch_events=50,
    learning_rate=3e-3,
    hard_negatives=2,
    checkpoint_steps=5,
    ablations=True,
)
EVENTS = 1000
STEPS = EVENTS * CONFIG.epochs // CONFIG.batch_events


class Killed(Exception):
    """Stands for a process that ends in the middle of a step."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("scl")
    toy_search.write_content(root / "content")
    toy_search.write_item_features(root / "raw")
    train, _ = toy_search.write_events(root / "train", EVENTS)
    held_out, _ = toy_search.write_events(root / "eval", 150, seed=9)
    return types.SimpleNamespace(root=root, train=[train], held_out=[held_out])


def run(data, folder: pathlib.Path, config=CONFIG):
    trainer.run(
        config,
        ItemContent.open(data.root / "content"),
        train_files=data.train,
        eval_files=data.held_out,
        raw_dir=str(data.root / "raw"),
        checkpoint_dir=folder / "checkpoints",
        run_dir=folder / "run",
        model_dir=folder / "model",
    )


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    run(data, folder)
    return folder


@pytest.mark.once
def test_tower_finds_what_raw_content_does_not(trained):
    found = json.loads((trained / "run" / "evaluation.json").read_text())
    recall = {
        name: scopes["all"]["10"]["value"]
        for name, scopes in found["methods"].items()
    }
    assert list(recall) == [
        *trainer.VARIANTS,
        "raw modality cosine",
        "random",
    ]
    for name in trainer.VARIANTS:
        assert recall[name] > recall["raw modality cosine"] + 0.3, recall
    assert recall["random"] < 0.35


@pytest.mark.once
def test_run_is_recorded_and_leaves_no_checkpoint(trained):
    record = json.loads((trained / "run" / "run.json").read_text())
    assert record["events"] == EVENTS
    assert record["query_modalities"] == {"image": 12}
    assert record["item_modalities"] == toy_search.WIDTHS
    for name, variant in record["variants"].items():
        curve = (trained / "run" / variant["curve"]).read_text().splitlines()
        points = [json.loads(line) for line in curve]
        assert [p["step"] for p in points] == list(range(1, STEPS + 1)), name
        assert points[-1]["loss"] < 0.8 * points[0]["loss"]
        assert variant["held_out"]["mean_pairwise_cosine"] < 0.9
    assert (
        "triplet"
        not in (record["variants"]["tower without hard negatives"]["held_out"])
    )
    assert not (trained / "checkpoints").exists()


@pytest.mark.once
def test_saved_model_and_keras_file_embed_alike(data, trained):
    content = ItemContent.open(data.root / "content")
    features = content.features(np.arange(30))
    features["image"][3] = 0
    features["words"][3] = 0
    features["image"][4] = 0
    model = keras.saving.load_model(trained / "run" / trainer.MODEL_FILE)
    wanted = keras.ops.convert_to_numpy(model.embed_items(features))
    found = export.load_items_embedder(trained / "model")(features)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    norms = np.linalg.norm(found, axis=1)
    assert norms[3] == 0
    np.testing.assert_allclose(np.delete(norms, 3), 1, atol=1e-5)

    loaded = tf.saved_model.load(str(trained / "model"))
    queries = {
        "image": features["image"],
        "words": np.zeros_like(features["words"]),
    }
    answer = loaded.signatures["embed_queries"](
        **{name: tf.constant(values) for name, values in queries.items()}
    )
    np.testing.assert_allclose(
        answer["embedding"].numpy(),
        model.embed_queries({"image": features["image"]}),
        atol=1e-5,
    )
    # The towers are saved; bank and momentum tower are not.
    saved = sum(int(np.prod(v.shape)) for v in loaded.tower_variables)
    assert saved == model.query_tower.count_params()


def fit(data, folder, config):
    content = ItemContent.open(data.root / "content")
    widths = trainer.Widths(data.train, content, config.shared_tower)
    keras.utils.set_random_seed(config.seed)
    model = trainer.build_model(config, widths)
    trainer.train(
        model,
        data.train,
        content,
        widths,
        config,
        strategy=tf.distribute.get_strategy(),
        checkpoint_dir=folder,
        curves_path=folder / trainer.CURVES_FILE,
    )
    return model


@pytest.mark.once
def test_resumed_training_gives_the_same_model(data, tmp_path):
    config = CONFIG.model_copy(update={"epochs": 1, "hard_negatives": 0})
    whole = fit(data, tmp_path / "whole", config)
    original = checkpoints.Recorder.on_train_batch_end

    def on_train_batch_end(self, batch, logs=None):
        original(self, batch, logs)
        if batch + 1 == 12:
            raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(
            checkpoints.Recorder, "on_train_batch_end", on_train_batch_end
        )
        fit(data, tmp_path / "killed", config)
    resumed = fit(data, tmp_path / "killed", config)
    # Towers, temperature, bank, its ids and place, and the momentum tower. They
    # are equal but, rarely, on a loaded machine, where sums of threads differed
    # in their last bits. A lost bank moves weights by 7e-4, lost moments by
    # 8e-3.
    for one, two in zip(resumed.variables, whole.variables, strict=True):
        np.testing.assert_allclose(
            one.numpy(), two.numpy(), rtol=0, atol=4e-4, err_msg=one.path
        )
    curves = [
        (tmp_path / name / trainer.CURVES_FILE).read_text().splitlines()
        for name in ("killed", "whole")
    ]
    steps = [[json.loads(line)["step"] for line in lines] for lines in curves]
    assert steps[0] == steps[1] == list(range(1, 21))
    # What is finished is found finished.
    again = fit(data, tmp_path / "killed", config)
    for one, two in zip(again.variables, whole.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), two.numpy())


@pytest.mark.once
def test_collapsed_training_fails_and_says_so(data, tmp_path):
    config = CONFIG.model_copy(
        update={"min_variance": 0.5, "ablations": False, "epochs": 1}
    )
    with pytest.raises(CollapsedError, match="collapsed.*min_dimension_var"):
        run(data, tmp_path, config)
    assert not (tmp_path / "model").exists()


def test_too_few_events_for_a_batch_is_an_error(data, tmp_path):
    config = CONFIG.model_copy(update={"batch_events": EVENTS * 5})
    with pytest.raises(DataError, match="FEW_SEARCH_EVENTS") as info:
        fit(data, tmp_path, config)
    assert "scl.batch_events" in str(info.value)


def test_ablations_change_what_the_settings_have(data):
    def names(**changes):
        config = CONFIG.model_copy(update=changes)
        return list(trainer.variants(config))

    bank, hard = list(trainer.VARIANTS)[1:]
    assert names() == [trainer.TOWER, bank, hard]
    assert names(bank_size=0) == [trainer.TOWER, hard]
    assert names(hard_negatives=0) == [trainer.TOWER, bank]
    assert names(triplet_weight=0.0) == [trainer.TOWER, bank]
    assert names(ablations=False) == [trainer.TOWER]


def test_categories_are_those_of_the_items(data):
    content = ItemContent.open(data.root / "content")
    found = trainer.item_categories(str(data.root / "raw"), content)
    wanted = np.arange(toy_search.ITEMS) % toy_search.CATEGORIES + 1
    assert found.tolist() == wanted.tolist()
