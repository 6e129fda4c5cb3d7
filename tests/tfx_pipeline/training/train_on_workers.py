"""Trains through the Trainer's `train` as one worker of several, or alone.

Run as a program: workers must be joined before TensorFlow starts.
"""

from __future__ import annotations

import os
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

from muse_keras.optimizers import RowSparseAdam
from muse_keras.tables import ItemTable
from tests.tfx_pipeline.training import toy_training
from tfx_pipeline import config as config_lib
from tfx_pipeline.training import devices, trainer, workers

SHARDS = 4


def main(folder: pathlib.Path, epochs: int) -> None:
    """Trains on the data in a folder; saves this worker's weights there."""
    together = workers.cluster(os.environ)
    strategy = (
        devices.join_workers() if together else tf.distribute.get_strategy()
    )
    own = devices.place(strategy)
    keras.utils.set_random_seed(3)
    with strategy.scope():
        model = trainer.build_model(
            config_lib.ModelConfig(
                type="din",
                embedding_dim=4,
                recent=3,
                num_tiers=4,
                hidden_units=(8,),
                oov_rate=0.3,
            ),
            ItemTable.open(folder / "table"),
            toy_training.DECLARED,
            toy_training.VOCABULARIES,
        )
        optimizer = RowSparseAdam(1e-2, table_learning_rate=1e-1)
    trainer.train(
        model,
        optimizer,
        [str(folder / "data" / "*")],
        toy_training.SPEC,
        config_lib.TrainerConfig(
            epochs=epochs, batch_requests=8, checkpoint_steps=3, shards=SHARDS
        ),
        toy_training.DECLARED,
        strategy=strategy,
        checkpoint_dir=folder / "checkpoints",
        curves_path=folder / "curve.jsonl",
    )
    np.savez(
        folder / f"weights{own.index}.npz",
        **{
            str(i): np.asarray(w)
            for i, w in enumerate([*model.weights, *optimizer.variables])
        },
    )


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
