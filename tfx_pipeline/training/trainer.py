"""Trains the ranker, without its export."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy.typing as npt
import tensorflow as tf

from muse_keras import losses, models, optimizers
from muse_keras._keras_internals import flattened_layers
from muse_keras.tables import ItemTable
from schemas.ranking_schema import RankingSchema
from serving.export.encodings import model_arguments
from tfx_pipeline import config as config_lib
from tfx_pipeline.training import checkpoints, devices, input_fn, records

CURVES_FILE = "training.jsonl"
RUN_FILE = "run.json"
MODELS: dict[str, type[models.SearchRanker]] = {
    "muse": models.MUSE,
    "est": models.EST,
    "din": models.DIN,
    "full_din": models.FullDIN,
    "sim_hard": models.SIMHard,
    "sim_soft": models.SIMSoft,
    "eta": models.ETA,
    "sdim": models.SDIM,
    "twin": models.TWIN,
    "miss": models.MISS,
}
_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def build_model(
    config: config_lib.ModelConfig,
    item_table: ItemTable,
    declared: RankingSchema,
    learned: Mapping[str, npt.ArrayLike],
    compute_dtype: str = "float32",
    spare_rows: int = 0,
) -> keras.Model:
    """Returns an untrained ranker with a filled item table.

    ``learned`` has the values that Transform learned for the declared features.
    ``spare_rows`` is the number of items that can be added during serving.
    """
    own: dict[str, Any] = {}
    if config.type == "est":
        own = {"depth": config.est_depth, "width": config.est_width}
    model = MODELS[config.type](
        num_items=item_table.num_items,
        vector_dim=item_table.dim,
        **model_arguments(declared.features, learned),
        labels=tuple(declared.labels),
        dtype=_POLICIES[compute_dtype],
        spare_rows=spare_rows,
        **config.model_dump(exclude={"type", "est_depth", "est_width"}),
        **own,
    )
    model.table.assign(item_table)
    return model


def build_optimizer(
    config: config_lib.TrainerConfig,
) -> optimizers.RowSparseAdam:
    """Returns the optimizer of a ranker; it is not built yet."""
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
    declared: RankingSchema,
    *,
    strategy: tf.distribute.Strategy,
    checkpoint_dir: pathlib.Path,
    curves_path: pathlib.Path,
) -> None:
    """Trains a built ranker, from the last checkpoint if there is one.

    ``checkpoint_dir`` must contain only checkpoints of the same training.
    ``curves_path`` receives the loss of each step.

    Raises:
        ValueError: the devices cannot share a batch evenly.
    """
    checkpoints.check_batch(
        "trainer.batch_requests", config.batch_requests, strategy
    )
    count = config.shards or devices.place(strategy).count
    if config.batch_requests % count:
        raise ValueError(
            "trainer.batch_requests must be a multiple of trainer.shards, "
            f"{count}. Received: {config.batch_requests}"
        )
    rows = config.batch_requests // count
    own = devices.share(count, strategy)
    mine = [
        -(-records.count_records(files, shard) * config.epochs // rows)
        for shard in own
    ]
    compile_model(model, optimizer, strategy)
    checkpoints.fit(
        model,
        lambda done: training_dataset(
            files, feature_spec, config, declared, done, own
        ),
        int(devices.gather([max(mine)], strategy).max()),
        prepare=input_fn.normalized if count > 1 else lambda batch: batch,
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
    """Compiles a built ranker for `fit`."""
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
    declared: RankingSchema,
    done: int = 0,
    shards: Sequence[records.Shard] = (records.WHOLE,),
) -> tf.data.Dataset:
    """Returns the batches of shards that remain after ``done`` steps."""
    whole = shards[0].count == 1
    rows = config.batch_requests // shards[0].count

    def batches(shard: records.Shard) -> tf.data.Dataset:
        requests = input_fn.request_dataset(
            files,
            feature_spec,
            rows,
            shuffle_requests=config.shuffle_requests,
            epochs=config.epochs,
            seed=config.seed,
            skip_batches=done,
            shard=shard,
        )
        return input_fn.ranking_dataset(requests, rows, declared, whole)

    if whole:
        return batches(shards[0])
    return input_fn.joined([batches(shard) for shard in shards])


def compute_in_float32(model: keras.Model) -> None:
    """Sets all layers to float32, in which the model is served.

    Products in bfloat16 depend on the shape of a batch, so the scores of a
    server would differ from the trainer's. Weights are float32 already.
    """
    for layer in flattened_layers(model):
        layer.dtype_policy = "float32"
