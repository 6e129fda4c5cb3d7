"""Training of the ranker: the `run_fn` of the Trainer component."""

from __future__ import annotations

import pathlib
import shutil
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from muse_keras import losses, models, optimizers
from muse_keras._keras_internals import flattened_layers
from muse_keras.tables import ItemTable
from serving import export
from serving.files import write_json
from tfx_pipeline import config as config_lib
from tfx_pipeline import features, progress
from tfx_pipeline.training import checkpoints, devices, input_fn, records

__all__ = [
    "CURVES_FILE",
    "RUN_FILE",
    "SCORES_FILE",
    "build_model",
    "compile_model",
    "compute_in_float32",
    "read_vocabularies",
    "run_fn",
    "train",
    "training_dataset",
]

CURVES_FILE = "training.jsonl"
RUN_FILE = "run.json"
SCORES_FILE = "validation_scores.npz"
MODEL_FILE = "model.keras"
_MODELS = {
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


def run_fn(fn_args: Any) -> None:
    """Trains, exports and records what the server must reproduce.

    Args:
        fn_args: TFX `FnArgs`; ``custom_config`` holds the sections ``model``,
            ``trainer``, ``transform`` and ``export`` of the configuration,
            ``item_table`` (directory) and ``checkpoint_dir``.
    """
    settings = fn_args.custom_config
    model_config = config_lib.ModelConfig(**settings["model"])
    trainer_config = config_lib.TrainerConfig(**settings["trainer"])
    transform_config = config_lib.TransformConfig(**settings["transform"])
    export_config = config_lib.ExportConfig(**settings["export"])
    transform_output = tft.TFTransformOutput(fn_args.transform_graph_path)
    item_table = ItemTable.open(settings["item_table"])
    vocabularies = read_vocabularies(transform_output)
    feature_spec = transform_output.transformed_feature_spec()
    run_dir = pathlib.Path(fn_args.model_run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)

    strategy = devices.choose_strategy()
    keras.utils.set_random_seed(trainer_config.seed)
    with strategy.scope():
        model = build_model(
            model_config,
            item_table,
            vocabularies,
            trainer_config.compute_dtype,
            spare_rows=export_config.fresh_items,
        )
        optimizer = optimizers.RowSparseAdam(
            learning_rate=trainer_config.learning_rate,
            table_learning_rate=trainer_config.table_learning_rate,
        )
    start = time.monotonic()
    train(
        model,
        optimizer,
        fn_args.train_files,
        feature_spec,
        trainer_config,
        strategy=strategy,
        checkpoint_dir=pathlib.Path(settings["checkpoint_dir"]),
        curves_path=run_dir / CURVES_FILE,
    )
    seconds = time.monotonic() - start
    compute_in_float32(model)
    shared = model.share_oov_row(optimizer)
    record = {
        "trainable_weights": sum(
            int(np.prod(variable.shape))
            for variable in model.trainable_variables
        ),
        "items": item_table.num_items,
        "items_never_trained": shared,
        "devices": strategy.num_replicas_in_sync,
        "seconds": round(seconds, 1),
    }
    write_json(run_dir / RUN_FILE, record)
    validation = input_fn.request_dataset(
        fn_args.eval_files, feature_spec, trainer_config.batch_requests
    )
    record_scores(
        model,
        validation,
        trainer_config.validation_requests,
        run_dir / SCORES_FILE,
    )
    model.save(run_dir / MODEL_FILE)
    progress.report("exporting the SavedModel")
    exported = export.export_saved_model(
        fn_args.serving_model_dir,
        model=model,
        item_table=item_table,
        vocabularies=vocabularies,
        max_history=transform_config.max_history,
        transform_output=fn_args.transform_graph_path,
        target=export_config.target,
        user_cache=export.UserCacheConfig(
            **export_config.user_cache.model_dump()
        ),
    )
    progress.report(f"exported {exported.memory_summary()}")
    shutil.rmtree(settings["checkpoint_dir"], ignore_errors=True)


def read_vocabularies(
    transform_output: tft.TFTransformOutput,
) -> dict[str, np.ndarray]:
    """Returns the raw ids of each vocabulary in index order, int64 (V,)."""
    return {
        name: np.array(
            [int(value) for value in transform_output.vocabulary_by_name(name)],
            np.int64,
        )
        for name in features.VOCABULARIES
    }


def build_model(
    config: config_lib.ModelConfig,
    item_table: ItemTable,
    vocabularies: dict[str, np.ndarray],
    compute_dtype: str = "float32",
    spare_rows: int = 0,
) -> keras.Model:
    """Returns an untrained ranker with its item table filled.

    Args:
        config: architecture.
        item_table: items and their vectors.
        vocabularies: raw ids per field.
        compute_dtype: "float32" or "bfloat16"; weights are float32.
        spare_rows: items that can be added while the model serves.
    """
    # Every vocabulary has two more indices: missing and unseen.
    sizes = {name: len(values) + 2 for name, values in vocabularies.items()}
    model = _MODELS[config.type](
        num_items=item_table.num_items,
        vector_dim=item_table.dim,
        profile_sizes=tuple(sizes[name] for name in features.USER_PROFILE),
        category_size=sizes["category"],
        city_size=sizes["city"],
        province_size=sizes["province"],
        dtype=_POLICIES[compute_dtype],
        spare_rows=spare_rows,
        **config.model_dump(exclude={"type"}),
    )
    model.table.assign(item_table)
    return model


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
    """Trains a model, resuming from a checkpoint when there is one.

    Args:
        model: built ranker.
        optimizer: its optimiser.
        files: patterns of transformed Examples.
        feature_spec: their spec.
        config: how to train.
        strategy: devices.
        checkpoint_dir: checkpoints of this very training; nothing else may
            be in it.
        curves_path: JSON lines of step and loss to write.
    """
    replicas = strategy.num_replicas_in_sync
    if config.batch_requests % replicas:
        raise ValueError(
            "trainer.batch_requests must be a multiple of the number of "
            f"devices, {replicas}. Received: {config.batch_requests}"
        )
    requests = records.count_records(files)
    steps = -(-requests * config.epochs // config.batch_requests)
    compile_model(model, optimizer, strategy)
    checkpoint = checkpoints.TrainingCheckpoint(
        model, optimizer, checkpoint_dir, frozen=model.table.variables
    )
    done = checkpoint.restore()
    if done:
        progress.report(f"training resumes at step {done:,} of {steps:,}")
    curves = checkpoints.Curves(curves_path, checkpoint_dir, done, steps)
    callbacks: list[keras.callbacks.Callback] = [curves]
    if config.checkpoint_steps:
        callbacks.append(
            checkpoints.SaveCheckpoints(
                checkpoint, curves, done, config.checkpoint_steps
            )
        )
    if done < steps:
        model.fit(
            training_dataset(files, feature_spec, config, done),
            steps_per_epoch=steps - done,
            epochs=1,
            callbacks=callbacks,
            verbose=0,
        )
    curves.publish()


def compile_model(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    strategy: tf.distribute.Strategy,
) -> None:
    """Makes a ranker ready for `fit`.

    Args:
        model: built ranker.
        optimizer: its optimiser.
        strategy: devices.
    """
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
    done: int = 0,
) -> tf.data.Dataset:
    """Returns the batches that are left after some steps.

    Args:
        files: patterns of transformed Examples.
        feature_spec: their spec.
        config: how to train.
        done: steps that were done before.
    """
    requests = input_fn.request_dataset(
        files,
        feature_spec,
        config.batch_requests,
        shuffle_requests=config.shuffle_requests,
        epochs=config.epochs,
        seed=config.seed,
        skip_batches=done,
    )
    return input_fn.ranking_dataset(requests, config.batch_requests)


def compute_in_float32(model: keras.Model) -> None:
    """Ends mixed precision: what is served computes in float32.

    Products in bfloat16 depend on the shapes of a batch; scores of a server
    would not be those of the trainer. Weights are float32 already.

    Args:
        model: trained ranker.
    """
    for layer in flattened_layers(model):
        layer.dtype_policy = "float32"


def record_scores(
    model: keras.Model,
    requests: tf.data.Dataset,
    count: int,
    path: pathlib.Path,
) -> None:
    """Writes the model's scores of some requests.

    A request is known again by its user and its candidates.

    Args:
        model: trained ranker.
        requests: dataset of `input_fn.request_dataset`.
        count: number of requests.
        path: ``.npz`` with ``user_id`` (n,), ``lengths`` (n,), and the flat
            ``candidate_item_ids`` and ``click_probability``.
    """
    users, lengths, candidates, scores = [], [], [], []
    for batch in requests:
        inputs, _, _ = input_fn.training_batch(batch)
        mask = inputs["candidate_mask"].numpy()
        probability = keras.ops.convert_to_numpy(
            keras.ops.sigmoid(model(inputs, training=False))
        )
        users.append(batch[features.USER_ID].numpy()[:, 0])
        lengths.append(mask.sum(axis=1))
        candidates.append(inputs[features.CANDIDATE_ITEM_IDS].numpy()[mask])
        scores.append(probability[mask])
        if sum(map(len, users)) >= count:
            break
    np.savez(
        path,
        user_id=np.concatenate(users),
        lengths=np.concatenate(lengths),
        candidate_item_ids=np.concatenate(candidates),
        click_probability=np.concatenate(scores),
    )
