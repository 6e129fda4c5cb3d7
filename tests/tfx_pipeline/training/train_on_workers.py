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
from muse_keras.tables import ItemTable, row_shards
from tests.tfx_pipeline.training import toy_training
from tfx_pipeline import config as config_lib
from tfx_pipeline.training import devices, trainer, workers

SHARDS = 4


def main(folder: pathlib.Path, epochs: int, divided: int) -> None:
    """Trains on the data in a folder; saves this worker's weights there.

    Of a table with at least ``divided`` rows it saves those that it holds, with
    their shard in the name.
    """
    together = workers.cluster(os.environ)
    strategy = (
        devices.join_workers() if together else tf.distribute.get_strategy()
    )
    own = devices.place(strategy)
    keras.utils.set_random_seed(3)
    with strategy.scope(), row_shards.divided_rows(divided):
        model = trainer.build_model(
            config_lib.ModelConfig(
                type="muse",
                k=3,
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
    weights = {}
    for i, weight in enumerate([*model.weights, *optimizer.variables]):
        if getattr(weight, "row_shards", None):
            with strategy.scope():
                parts = row_shards.local_shards(weight)
            for shard, part in parts.items():
                name = f"{i} {shard} of {weight.row_shards.total}"
                weights[name] = part.numpy()
        else:
            weights[str(i)] = np.asarray(weight)
    np.savez(folder / f"weights{own.index}.npz", **weights)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:]))
