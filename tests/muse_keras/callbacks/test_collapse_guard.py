"""When a collapse stops the training, and what it says."""

import keras
import numpy as np
import pytest

from muse_keras.callbacks import CollapsedError, CollapseGuard
from muse_keras.layers import SCLTower
from muse_keras.models import SCL

FINE = {"loss": 1.0, "mean_pairwise_cosine": 0.1, "min_dimension_variance": 0.1}


@pytest.mark.parametrize(
    ("logs", "message"),
    [
        ({"mean_pairwise_cosine": 0.97}, "mean_pairwise_cosine is 0.97"),
        ({"min_dimension_variance": 1e-9}, "min_dimension_variance is 1e-09"),
        ({"val_mean_pairwise_cosine": 0.97}, "val_mean_pairwise_cosine is"),
        ({"loss": np.nan}, "loss is nan"),
        ({"val_info_nce": np.inf}, "val_info_nce is inf"),
        ({"mean_pairwise_cosine": np.nan}, "mean_pairwise_cosine is nan"),
    ],
)
def test_what_was_measured_is_named(logs, message):
    guard = CollapseGuard(max_mean_cosine=0.9, min_variance=1e-5, patience=0)
    guard.on_epoch_end(0, FINE)
    with pytest.raises(CollapsedError, match=f"at epoch 2: {message}.* Try"):
        guard.on_epoch_end(1, {**FINE, **logs})


def test_patience_counts_failures_in_a_row():
    guard = CollapseGuard(max_mean_cosine=0.5, patience=2)
    bad = {**FINE, "mean_pairwise_cosine": 0.6}
    for logs in (bad, bad, FINE, bad, bad):
        guard.on_epoch_end(0, logs)
    with pytest.raises(CollapsedError, match="limit 0.5"):
        guard.on_epoch_end(5, bad)
    guard.on_train_begin()
    guard.on_epoch_end(0, bad)


def test_batches_are_checked_when_asked_for():
    bad = {**FINE, "mean_pairwise_cosine": 0.99}
    CollapseGuard(patience=0).on_train_batch_end(3, bad)
    guard = CollapseGuard(patience=0, every=4)
    guard.on_train_batch_end(2, bad)
    with pytest.raises(CollapsedError, match="at batch 4"):
        guard.on_train_batch_end(3, bad)


def test_a_collapsed_training_stops():
    class Collapsed(SCLTower):
        """Gives every item nearly the same vector."""

        def call(self, features, training=None):
            vectors = super().call(features, training=training)
            return keras.ops.normalize(vectors * 0.01 + 1.0, axis=-1)

    rng = np.random.default_rng(0)
    content = {"image": rng.normal(size=(64, 6)).astype("float32")}
    inputs = {
        "query": content,
        "item": content,
        "item_ids": np.arange(64, dtype="int32"),
    }
    for tower, collapses in ((Collapsed, True), (SCLTower, False)):
        model = SCL(tower({"image": 6}, (), 4), bank_size=0)
        model.compile(
            keras.optimizers.SGD(1e-3),
            run_eagerly=keras.backend.backend() == "tensorflow",
        )
        guard = CollapseGuard(patience=0)
        if collapses:
            with pytest.raises(CollapsedError, match="mean_pairwise_cosine"):
                model.fit(inputs, callbacks=[guard], verbose=0)
        else:
            model.fit(inputs, callbacks=[guard], verbose=0)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"max_mean_cosine": 1.0}, "max_mean_cosine"),
        ({"min_variance": -1.0}, "min_variance"),
        ({"patience": -1}, "patience"),
        ({"every": -1}, "every"),
    ],
)
def test_bad_arguments_are_named(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        CollapseGuard(**arguments)
