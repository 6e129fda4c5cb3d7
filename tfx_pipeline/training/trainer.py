"""Training of the ranker, without its export."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from muse_keras import losses, models, optimizers
from muse_keras._keras_internals import flattened_layers
from muse_keras.tables import ItemTable
from muse_keras.tensorflow import FeatureNames
from serving.export.feature_names import names_of
from tfx_pipeline import config as config_lib
from tfx_pipeline.training import checkpoints, input_fn, records

CURVES_FILE = "training.jsonl"
RUN_FILE = "run.json"
MODELS = {
    "muse": models.MUSE,
    "din": models.DIN,
    "sim_hard": models.SIMHard,
    "sim_soft": models.SIMSoft,
    "eta": models.ETA,
    "sdim": models.SDIM,
    "twin": models.TWIN,
    "miss": models.MISS,
}
_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def read_vocabularies(
    transform_output: tft.TFTransformOutput,
    names: Mapping[str, Sequence[str]],
) -> dict[str, np.ndarray]:
    """Returns the raw ids of each vocabulary in index order, int64 (V,).

    Of the features ``names``, the vocabularies are ``user_<f>`` and
    ``item_<f>``.
    """
    return {
        name: np.array(
            [int(value) for value in transform_output.vocabulary_by_name(name)],
            np.int64,
        )
        for name in (
            *(f"user_{feature}" for feature in names["user"]),
            *(f"item_{feature}" for feature in names["item"]),
        )
    }


def build_model(
    config: config_lib.ModelConfig,
    item_table: ItemTable,
    vocabularies: dict[str, np.ndarray],
    names: Mapping[str, Sequence[str]],
    compute_dtype: str = "float32",
    spare_rows: int = 0,
) -> keras.Model:
    """Returns an untrained ranker with its item table filled.

    ``names`` are the declared names of its features, by group; ``spare_rows``
    is the number of items that can be added while it serves.
    """
    # Every vocabulary has two more indices: missing and unseen.
    sizes = {name: len(values) + 2 for name, values in vocabularies.items()}
    model = MODELS[config.type](
        num_items=item_table.num_items,
        vector_dim=item_table.dim,
        user_sizes={name: sizes[f"user_{name}"] for name in names["user"]},
        item_sizes={name: sizes[f"item_{name}"] for name in names["item"]},
        behavior_features=names["behavior"],
        matches=names["matches"],
        dtype=_POLICIES[compute_dtype],
        spare_rows=spare_rows,
        **config.model_dump(exclude={"type"}),
    )
    model.table.assign(item_table)
    return model


def build_optimizer(
    config: config_lib.TrainerConfig,
) -> optimizers.RowSparseAdam:
    """Returns the optimizer of a ranker, not built yet."""
    return optimizers.RowSparseAdam(
        learning_rate=config.learning_rate,
        table_learning_rate=config.table_learning_rate,
    )


def train(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    files: list[str],
    feature_spec: dict[str, Any],
    config: config_lib.TrainerConfig,
    *,
    strategy: tf.distribute.Strategy,
    checkpoint_dir: pathlib.Path,
    curves_path: pathlib.Path,
) -> None:
    """Trains a built ranker, resuming from a checkpoint when there is one.

    Nothing but the checkpoints of this very training may be in
    ``checkpoint_dir``; ``curves_path`` receives the loss of each step.
    """
    checkpoints.check_batch(
        "trainer.batch_requests", config.batch_requests, strategy
    )
    requests = records.count_records(files)
    compile_model(model, optimizer, strategy)
    checkpoints.fit(
        model,
        lambda done: training_dataset(
            files, feature_spec, config, names_of(model), done
        ),
        -(-requests * config.epochs // config.batch_requests),
        directory=checkpoint_dir,
        curve=curves_path,
        checkpoint_steps=config.checkpoint_steps,
        frozen=model.table.variables,
    )


def compile_model(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    strategy: tf.distribute.Strategy,
) -> None:
    """Makes a built ranker ready for `fit`."""
    with strategy.scope():
        optimizer.build(model.trainable_variables)
        model.compile(
            optimizer=optimizer,
            loss=losses.ImpressionCrossentropy(),
            jit_compile=False,
        )


def training_dataset(
    files: list[str],
    feature_spec: dict[str, Any],
    config: config_lib.TrainerConfig,
    names: FeatureNames,
    done: int = 0,
) -> tf.data.Dataset:
    """Returns the batches that are left after some steps."""
    requests = input_fn.request_dataset(
        files,
        feature_spec,
        config.batch_requests,
        shuffle_requests=config.shuffle_requests,
        epochs=config.epochs,
        seed=config.seed,
        skip_batches=done,
    )
    return input_fn.ranking_dataset(requests, config.batch_requests, names)


def compute_in_float32(model: keras.Model) -> None:
    """Ends mixed precision: what is served computes in float32.

    Products in bfloat16 depend on the shapes of a batch; scores of a server
    would not be those of the trainer. Weights are float32 already.
    """
    for layer in flattened_layers(model):
        layer.dtype_policy = "float32"
