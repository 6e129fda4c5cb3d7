"""RankerTrainer: transformed requests and an item table to a SavedModel."""

import json
import pathlib
import shutil
import time

import keras
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
from tfx.v1.dsl.components import (
    InputArtifact,
    OutputArtifact,
    Parameter,
    component,
)

from muse_keras.tables import ItemTable
from serving import export
from serving.export.feature_names import names_of
from serving.files import write_json
from tfx_pipeline import config as config_lib
from tfx_pipeline import features, progress
from tfx_pipeline.components.artifacts import (
    MODEL_TYPE,
    SCORES_FILE,
    TABLE_DIR,
    ItemTableArtifact,
    split_files,
)
from tfx_pipeline.tfx_internals import (
    path_utils,
    standard_artifacts,
)
from tfx_pipeline.training import checkpoints, devices, input_fn, trainer

MODEL_FILE = "model.keras"


@component
def RankerTrainer(
    examples: InputArtifact[standard_artifacts.Examples],
    transform_graph: InputArtifact[standard_artifacts.TransformGraph],
    item_table: InputArtifact[ItemTableArtifact],
    model: OutputArtifact[standard_artifacts.Model],
    model_run: OutputArtifact[standard_artifacts.ModelRun],
    custom_config: Parameter[str],
    checkpoint_root: Parameter[str],
    code_fingerprint: Parameter[str] = "",
) -> None:
    """Trains a ranker, exports it and records what a server must reproduce.

    Args:
        examples: transformed Examples.
        transform_graph: output of Transform.
        item_table: items and their vectors.
        model: receives the SavedModel, and the type of the model.
        model_run: receives curves, scores and the Keras model.
        custom_config: JSON of the sections ``model``, ``trainer``,
            ``transform`` and ``export`` of the configuration,
            ``features``, as of ``preprocessing_fn``, and ``of_items``, those
            of behaviors that are features of the items.
        checkpoint_root: folder of the checkpoints of all trainings.
        code_fingerprint: changes when the code of the training changes.
    """
    settings = json.loads(custom_config)
    model_config = config_lib.ModelConfig(**settings["model"])
    trainer_config = config_lib.TrainerConfig(**settings["trainer"])
    export_config = config_lib.ExportConfig(**settings["export"])
    table = ItemTable.open(pathlib.Path(item_table.uri) / TABLE_DIR)
    train_files, eval_files = split_files(examples)
    # Everything that the training depends on: one that was cut off goes on,
    # another starts again.
    checkpoint_dir = checkpoints.directory_of(
        pathlib.Path(checkpoint_root),
        settings,
        code_fingerprint,
        [train_files],
        transform_graph.uri,
        table.manifest,
    )
    transform_output = tft.TFTransformOutput(transform_graph.uri)
    names = settings["features"]
    vocabularies = trainer.read_vocabularies(transform_output, names)
    feature_spec = transform_output.transformed_feature_spec()
    run_dir = pathlib.Path(model_run.uri)
    run_dir.mkdir(parents=True, exist_ok=True)

    strategy = devices.choose_strategy()
    keras.utils.set_random_seed(trainer_config.seed)
    with strategy.scope():
        ranker = trainer.build_model(
            model_config,
            table,
            vocabularies,
            names,
            trainer_config.compute_dtype,
            spare_rows=export_config.fresh_items,
        )
        optimizer = trainer.build_optimizer(trainer_config)
    start = time.monotonic()
    trainer.train(
        ranker,
        optimizer,
        [train_files],
        feature_spec,
        trainer_config,
        strategy=strategy,
        checkpoint_dir=checkpoint_dir,
        curves_path=run_dir / trainer.CURVES_FILE,
    )
    seconds = time.monotonic() - start
    trainer.compute_in_float32(ranker)
    record = {
        "trainable_weights": checkpoints.count_weights(ranker),
        "items": table.num_items,
        "items_never_trained": ranker.share_oov_row(optimizer),
        "devices": strategy.num_replicas_in_sync,
        "seconds": round(seconds, 1),
    }
    write_json(run_dir / trainer.RUN_FILE, record)
    _record_scores(
        ranker,
        input_fn.request_dataset(
            [eval_files], feature_spec, trainer_config.batch_requests
        ),
        trainer_config.validation_requests,
        run_dir / SCORES_FILE,
    )
    ranker.save(run_dir / MODEL_FILE)
    progress.report("exporting the SavedModel")
    exported = export.export_saved_model(
        path_utils.serving_model_dir(model.uri),
        model=ranker,
        item_table=table,
        vocabularies=vocabularies,
        max_history=settings["transform"]["max_history"],
        transform_output=transform_graph.uri,
        target=export_config.target,
        user_cache=export.UserCacheConfig(
            **export_config.user_cache.model_dump()
        ),
        of_items=settings["of_items"],
    )
    progress.report(f"exported {exported.memory_summary()}")
    model.set_string_custom_property(MODEL_TYPE, model_config.type)
    shutil.rmtree(checkpoint_dir, ignore_errors=True)


def _record_scores(
    model: keras.Model,
    requests: tf.data.Dataset,
    count: int,
    path: pathlib.Path,
) -> None:
    """Writes the model's scores of some requests.

    A request is known again by its user and its candidates. The ``.npz`` has
    ``user_id`` (n,), ``lengths`` (n,), and the flat ``candidate_item_ids`` and
    ``click_probability``.
    """
    users, lengths, candidates, scores = [], [], [], []
    names = names_of(model)
    for batch in requests:
        inputs, _, _ = input_fn.training_batch(batch, names)
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
