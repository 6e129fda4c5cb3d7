"""Train embeddings on one and on two logical CPU devices; save both.

Run as a program: logical devices must be set before TensorFlow starts.
"""

import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from ranker_testing.searches import scl, searches


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
        held = embeddings(strategy, options)
        np.savez(Path(folder) / f"{replicas}.npz", **held)


def embeddings(strategy: tf.distribute.Strategy, options: dict) -> dict:
    inputs = searches(48)
    inputs["item_ids"] = inputs["item_ids"].astype("int64") + 2**40
    with strategy.scope():
        model = scl(momentum=0.8)
        # With the small default, Adam would make whole steps of gradients that
        # are nothing but rounding, which a graph and steps do not share.
        model.compile(keras.optimizers.Adam(1e-2, epsilon=1e-3), **options)
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
