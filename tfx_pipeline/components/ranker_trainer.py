"""RankerTrainer: trains a ranker and exports it as a SavedModel."""

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
from schemas.ranking_schema import RankingSchema
from serving import export
from serving.files import write_json
from tfx_pipeline import config as config_lib
from tfx_pipeline import features, learned_values, progress
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
    """Trains a ranker, exports it and records scores that a server must match.

    Args:
        examples: transformed Examples.
        transform_graph: output of Transform.
        item_table: items and their vectors.
        model: receives the SavedModel, and the type of the model.
        model_run: receives curves, scores and the Keras model.
        custom_config: JSON of the sections ``model``, ``trainer``,
            ``transform`` and ``export`` of the configuration, and
            ``schema``, the declaration.
        checkpoint_root: folder of the checkpoints of all trainings.
        code_fingerprint: changes when the code of the training changes.

    Raises:
        ValueError: the item table was made with another declaration.
    """
    settings = json.loads(custom_config)
    model_config = config_lib.ModelConfig(**settings["model"])
    trainer_config = config_lib.TrainerConfig(**settings["trainer"])
    export_config = config_lib.ExportConfig(**settings["export"])
    table = ItemTable.open(pathlib.Path(item_table.uri) / TABLE_DIR)
    train_files, eval_files = split_files(examples)
    # The folder depends on all inputs of the training: an interrupted training
    # resumes, a training with other inputs starts again.
    checkpoint_dir = checkpoints.directory_of(
        pathlib.Path(checkpoint_root),
        settings,
        code_fingerprint,
        [train_files],
        transform_graph.uri,
        table.manifest,
    )
    transform_output = tft.TFTransformOutput(transform_graph.uri)
    declared = RankingSchema.model_validate(settings["schema"])
    _check_table(table, declared)
    learned = learned_values.read_learned(transform_output, declared.features)
    feature_spec = transform_output.transformed_feature_spec()
    run_dir = pathlib.Path(model_run.uri)
    run_dir.mkdir(parents=True, exist_ok=True)

    strategy = devices.choose_strategy()
    keras.utils.set_random_seed(trainer_config.seed)
    with strategy.scope():
        ranker = trainer.build_model(
            model_config,
            table,
            declared,
            learned,
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
        declared,
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
        declared,
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
        features=declared.features,
        learned=learned,
        schema=declared,
        max_history=settings["transform"]["max_history"],
        transform_output=transform_graph.uri,
        target=export_config.target,
        user_cache=export.UserCacheConfig(
            **export_config.user_cache.model_dump()
        ),
    )
    progress.report(f"exported {exported.memory_summary()}")
    model.set_string_custom_property(MODEL_TYPE, model_config.type)
    shutil.rmtree(checkpoint_dir, ignore_errors=True)


def _check_table(table: ItemTable, declared: RankingSchema) -> None:
    """Refuses a table that was made with another declaration."""
    made_with = table.manifest.get("schema", {}).get("digest")
    if made_with not in (None, declared.digest()):
        raise ValueError(
            f"{table.path}: expected an item table of the declaration "
            f"{declared.name}, digest {declared.digest()}; run ItemTableGen "
            f"again. Received: digest {made_with}"
        )


def _record_scores(
    model: keras.Model,
    declared: RankingSchema,
    requests: tf.data.Dataset,
    count: int,
    path: pathlib.Path,
) -> None:
    """Writes the model's scores of at least `count` requests.

    User and candidates identify a request. The ``.npz`` file has ``user_id``
    (n,), ``lengths`` (n,), and the flat ``candidate_item_ids``,
    ``click_probability`` and ``<label>_probability`` of other labels.
    """
    users, lengths, candidates = [], [], []
    scores: dict[str, list[np.ndarray]] = {}
    for batch in requests:
        inputs, _, _ = input_fn.training_batch(batch, declared)
        mask = inputs["candidate_mask"].numpy()
        logits = model(inputs, training=False)
        for name, values in model.probabilities(logits).items():
            found = keras.ops.convert_to_numpy(values)[mask]
            scores.setdefault(name, []).append(found)
        users.append(batch[features.USER_ID].numpy()[:, 0])
        lengths.append(mask.sum(axis=1))
        candidates.append(inputs[features.CANDIDATE_ITEM_IDS].numpy()[mask])
        if sum(map(len, users)) >= count:
            break
    np.savez(
        path,
        user_id=np.concatenate(users),
        lengths=np.concatenate(lengths),
        candidate_item_ids=np.concatenate(candidates),
        **{name: np.concatenate(found) for name, found in scores.items()},
    )
