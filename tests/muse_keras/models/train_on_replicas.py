"""Train models on one and on two logical CPU devices; save what each holds.

Run as a program: logical devices must be set before TensorFlow starts.
"""

import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from ranker_testing.data import SMALL, fill_table, ranker_inputs
from ranker_testing.searches import scl, searches

from muse_keras.losses import ImpressionCrossentropy
from muse_keras.metrics import Calibration
from muse_keras.models import MUSE
from muse_keras.optimizers import RowSparseAdam


def main(folder: str) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration() for _ in range(2)]
    )
    for replicas in (1, 2):
        strategy = tf.distribute.MirroredStrategy(
            [f"CPU:{number}" for number in range(replicas)]
        )
        # A graph takes seconds to make; one device needs none.
        options = {"run_eagerly": replicas == 1}
        for train in (ranker, embeddings):
            name = {ranker: "ranker", embeddings: "scl"}[train]
            held = train(strategy, options)
            np.savez(Path(folder) / f"{name}_{replicas}.npz", **held)


def ranker(strategy: tf.distribute.Strategy, options: dict) -> dict:
    rng = np.random.default_rng(5)
    inputs = ranker_inputs(rng, batch=16, length=12, candidates=4)
    # The halves of a batch differ in how many candidates are real.
    inputs["candidate_mask"][::8, 1:] = False
    clicks = rng.integers(0, 2, (16, 4)).astype("float32")
    weight = inputs["candidate_mask"].astype("float32")
    keras.utils.set_random_seed(3)
    with strategy.scope():
        model = MUSE(**SMALL, k=5)
        fill_table(model)
        model.compile(
            RowSparseAdam(1e-2, table_learning_rate=1e-1),
            ImpressionCrossentropy(),
            weighted_metrics=[Calibration(from_logits=True)],
            **options,
        )
    history = model.fit(
        inputs,
        clicks,
        sample_weight=weight,
        batch_size=8,
        epochs=3,
        shuffle=False,
        verbose=0,
    ).history
    weights = {
        variable.path: np.asarray(variable) for variable in model.weights
    }
    return {name: np.array(x) for name, x in {**weights, **history}.items()}


def embeddings(strategy: tf.distribute.Strategy, options: dict) -> dict:
    inputs = searches(48)
    inputs["item_ids"] = inputs["item_ids"].astype("int64") + 2**40
    with strategy.scope():
        model = scl(momentum=0.8)
        model.compile(keras.optimizers.Adam(1e-2), **options)
    history = model.fit(
        inputs,
        validation_data=(searches(16, seed=9),),
        batch_size=16,
        epochs=2,
        shuffle=False,
        verbose=0,
    ).history
    held = {name: np.array(x) for name, x in history.items()}
    for number, variable in enumerate(model.weights):
        copies = strategy.experimental_local_results(variable.value)
        held[f"{number} {variable.path}"] = np.stack(
            [copy.numpy() for copy in copies]
        )
    return held


if __name__ == "__main__":
    main(sys.argv[1])
