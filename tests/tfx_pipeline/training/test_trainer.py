"""Interrupted or split over devices, training gives the same model."""

from __future__ import annotations

import contextlib
import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from muse_keras.optimizers import RowSparseAdam
from tests.tfx_pipeline.training import toy_training
from tfx_pipeline import config as config_lib
from tfx_pipeline.training import checkpoints, trainer

pytestmark = pytest.mark.tf

REQUESTS = 22
CONFIG = config_lib.TrainerConfig(
    epochs=3,
    batch_requests=4,
    learning_rate=1e-2,
    table_learning_rate=1e-1,
    shuffle_requests=16,
    checkpoint_steps=2,
)
# 66 requests in batches of 4; the last has 2.
STEPS = 17


class Killed(Exception):
    """Stands for a process that ends in the middle of a step."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("training")
    pattern, _ = toy_training.write_requests(root / "data", REQUESTS)
    return pattern, toy_training.write_items(root / "table")


def make(data, kind, oov_rate):
    keras.utils.set_random_seed(CONFIG.seed)
    model = trainer.build_model(
        config_lib.ModelConfig(
            type=kind,
            embedding_dim=4,
            k=3,
            recent=3,
            num_tiers=4,
            hidden_units=(8,),
            oov_rate=oov_rate,
        ),
        data[1],
        toy_training.DECLARED,
        toy_training.VOCABULARIES,
    )
    return model, RowSparseAdam(
        CONFIG.learning_rate, table_learning_rate=CONFIG.table_learning_rate
    )


def train(data, kind, oov_rate, folder, config=CONFIG):
    model, optimizer = make(data, kind, oov_rate)
    trainer.train(
        model,
        optimizer,
        [data[0]],
        toy_training.SPEC,
        config,
        toy_training.DECLARED,
        strategy=tf.distribute.get_strategy(),
        checkpoint_dir=folder / "checkpoints",
        curves_path=folder / "training.jsonl",
    )
    # Keras numbers layers through the process: names differ, order does not.
    state = {
        f"{number} {variable.shape}": np.asarray(variable)
        for number, variable in enumerate(
            [
                *model.weights,
                model.seed_generator.state,
                *optimizer.variables,
            ]
        )
    }
    curve = [
        json.loads(line)
        for line in (folder / "training.jsonl").read_text().splitlines()
    ]
    return state, curve


@contextlib.contextmanager
def killed_after(step):
    """Ends training after a step, whether that was saved or not."""
    original = checkpoints.Recorder.on_train_batch_end

    def on_train_batch_end(self, batch, logs=None):
        original(self, batch, logs)
        if self.done + batch + 1 == step:
            raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(
            checkpoints.Recorder, "on_train_batch_end", on_train_batch_end
        )
        yield


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.once
def test_resumed_training_gives_exactly_the_same_model(data, tmp_path):
    """Of the model that has all kinds of state: DIN has no search."""
    wanted, curve = train(data, "muse", 0.3, tmp_path / "at_once")
    assert [point["step"] for point in curve] == list(range(1, STEPS + 1))
    # In the first epoch and in the last step but one.
    for stop in (3, 16):
        with killed_after(stop):
            train(data, "muse", 0.3, tmp_path / "resumed")
    found, resumed_curve = train(data, "muse", 0.3, tmp_path / "resumed")
    assert_same(found, wanted)
    assert [p["step"] for p in resumed_curve] == [p["step"] for p in curve]
    np.testing.assert_allclose(
        [p["loss"] for p in resumed_curve],
        [p["loss"] for p in curve],
        rtol=1e-4,
        atol=1e-5,
    )


def test_what_is_finished_is_not_repeated(data, tmp_path):
    wanted, curve = train(data, "din", 0.0, tmp_path)
    found, same_curve = train(data, "din", 0.0, tmp_path)
    assert_same(found, wanted)
    assert same_curve == curve


def test_the_loss_is_the_mean_over_real_impressions(data, tmp_path):
    """The first step's loss, from the untrained model's own scores."""
    from tfx_pipeline.training import input_fn

    model, _ = make(data, "muse", 0.0)
    batch = next(
        iter(
            input_fn.request_dataset(
                [data[0]],
                toy_training.SPEC,
                CONFIG.batch_requests,
                shuffle_requests=CONFIG.shuffle_requests,
                epochs=CONFIG.epochs,
                seed=CONFIG.seed,
            )
        )
    )
    inputs, clicks, _ = input_fn.training_batch(batch, toy_training.DECLARED)
    # Training takes the batch's own statistics in Dice.
    logits = np.asarray(model(inputs, training=True), np.float64)
    losses = np.logaddexp(0.0, logits) - clicks.numpy() * logits
    wanted = losses[inputs["candidate_mask"].numpy()].mean()
    _, curve = train(data, "muse", 0.0, tmp_path)
    assert curve[0]["loss"] == pytest.approx(wanted, rel=1e-5)


def test_devices_must_share_a_batch_equally(data, tmp_path):
    class Three:
        num_replicas_in_sync = 3

    model, optimizer = make(data, "din", 0.0)
    with pytest.raises(ValueError, match="multiple of the number of.*3.*4"):
        trainer.train(
            model,
            optimizer,
            [data[0]],
            toy_training.SPEC,
            CONFIG,
            toy_training.DECLARED,
            strategy=Three(),
            checkpoint_dir=tmp_path,
            curves_path=tmp_path / "curve",
        )


@pytest.mark.once
def test_two_devices_give_the_weights_of_one(tmp_path):
    # TensorFlow's collectives do not survive a second MirroredStrategy in one
    # process. In 3 epochs of batches of 8 the last has just one request.
    subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.tfx_pipeline.training.train_on_replicas",
            *("muse", "19", str(tmp_path)),
        ],
        cwd=pathlib.Path(__file__).parents[3],
        timeout=280,
        check=True,
    )
    one, two = (tmp_path / f"run{number}" for number in (1, 2))
    with (
        np.load(one / "weights.npz") as wanted,
        np.load(two / "weights.npz") as found,
    ):
        assert found.files == wanted.files
        for name in wanted.files:
            np.testing.assert_allclose(
                found[name], wanted[name], rtol=1e-3, atol=2e-5
            )
    losses = [
        [
            json.loads(line)["loss"]
            for line in (run / "curve.jsonl").read_text().splitlines()
        ]
        for run in (one, two)
    ]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
