"""Trains through the Trainer's `train` on logical CPU devices.

Run as a program: logical devices must be set before TensorFlow starts.
"""

from __future__ import annotations

import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

from muse_keras.optimizers import RowSparseAdam
from tests.tfx_pipeline.training import toy_training
from tfx_pipeline import config as config_lib
from tfx_pipeline.training import trainer


def main(kind: str, requests: int, folder: pathlib.Path) -> None:
    """Trains on one device, then on two; saves both models' weights."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration() for _ in range(2)]
    )
    pattern, _ = toy_training.write_requests(folder / "data", requests)
    table = toy_training.write_items(folder / "table")
    for replicas in (1, 2):
        strategy = (
            tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
            if replicas == 2
            else tf.distribute.get_strategy()
        )
        keras.utils.set_random_seed(3)
        with strategy.scope():
            model = trainer.build_model(
                config_lib.ModelConfig(
                    type=kind,
                    embedding_dim=4,
                    k=3,
                    recent=3,
                    num_tiers=4,
                    hidden_units=(8,),
                    oov_rate=0.3,
                ),
                table,
                toy_training.DECLARED,
                toy_training.VOCABULARIES,
            )
            optimizer = RowSparseAdam(1e-2, table_learning_rate=1e-1)
        run = folder / f"run{replicas}"
        trainer.train(
            model,
            optimizer,
            [pattern],
            toy_training.SPEC,
            config_lib.TrainerConfig(epochs=3, batch_requests=8),
            toy_training.DECLARED,
            strategy=strategy,
            checkpoint_dir=run / "checkpoints",
            curves_path=run / "curve.jsonl",
        )
        np.savez(
            run / "weights.npz",
            **{str(i): np.asarray(w) for i, w in enumerate(model.weights)},
        )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3]))
