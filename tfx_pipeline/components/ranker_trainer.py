"""RankerTrainer: trains a ranker and exports it as a SavedModel."""

import dataclasses
import json
import os
import pathlib
import shutil
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_transform as tft
from tfx.v1.dsl.components import (
    InputArtifact,
    OutputArtifact,
    Parameter,
    component,
)

from muse_keras.tables import ItemTable
from muse_keras.tables.row_shards import divided_rows
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
from tfx_pipeline.training import (
    checkpoints,
    devices,
    divided_tables,
    input_fn,
    trainer,
    workers,
)

MODEL_FILE = "model.keras"


@dataclasses.dataclass(frozen=True)
class RankerJob:
    """What a worker needs to train, as JSON values.

    Attributes:
        settings: sections of the configuration, see `RankerTrainer`.
        train_files: pattern of the transformed Examples.
        transform_graph: folder of Transform's output.
        table_dir: folder of the item table.
        checkpoint_root: folder of the checkpoints of all trainings.
        code_fingerprint: changes when the code of the training changes.
        eval_files: pattern of the transformed Examples for evaluation.
        run_dir: folder for losses and scores.
    """

    settings: dict[str, Any]
    train_files: str
    transform_graph: str
    table_dir: str
    checkpoint_root: str
    code_fingerprint: str
    eval_files: str
    run_dir: str


class TrainedRanker(NamedTuple):
    """A trained ranker and what its export needs.

    ``model`` computes in float32. It may hold a part of its tables, or none.
    """

    model: keras.Model
    optimizer: keras.optimizers.Optimizer
    table: ItemTable
    declared: RankingSchema
    learned: Mapping[str, npt.ArrayLike]
    feature_spec: dict[str, Any]
    checkpoint_dir: pathlib.Path


def train_ranker(
    job: RankerJob,
    strategy: tf.distribute.Strategy,
    after_workers: bool = False,
) -> TrainedRanker:
    """Trains a ranker, from the last checkpoint if there is one.

    ``after_workers`` says that several workers ended the training. Tables that
    they divided stay in their files; the other weights are read.

    Raises:
        ValueError: the item table was made with another declaration.
    """
    settings = job.settings
    trainer_config = config_lib.TrainerConfig(**settings["trainer"])
    table = ItemTable.open(pathlib.Path(job.table_dir))
    # The folder depends on all inputs of the training: an interrupted training
    # resumes, a training with other inputs starts again.
    checkpoint_dir = checkpoints.directory_of(
        pathlib.Path(job.checkpoint_root),
        settings,
        job.code_fingerprint,
        [job.train_files],
        job.transform_graph,
        table.manifest,
    )
    transform_output = tft.TFTransformOutput(job.transform_graph)
    declared = RankingSchema.model_validate(settings["schema"])
    _check_table(table, declared)
    learned = learned_values.read_learned(transform_output, declared.features)
    feature_spec = transform_output.transformed_feature_spec()
    keras.utils.set_random_seed(trainer_config.seed)
    several = after_workers or devices.place(strategy).count > 1
    divided = trainer_config.divided_rows if several else 0
    with strategy.scope(), divided_rows(divided, held=not after_workers):
        ranker = trainer.build_model(
            config_lib.ModelConfig(**settings["model"]),
            table,
            declared,
            learned,
            trainer_config.compute_dtype,
            spare_rows=config_lib.ExportConfig(
                **settings["export"]
            ).fresh_items,
        )
        optimizer = trainer.build_optimizer(trainer_config)
    trainer.train(
        ranker,
        optimizer,
        [job.train_files],
        feature_spec,
        trainer_config,
        declared,
        strategy=strategy,
        checkpoint_dir=checkpoint_dir,
        curves_path=pathlib.Path(job.run_dir) / trainer.CURVES_FILE,
    )
    trainer.compute_in_float32(ranker)
    return TrainedRanker(
        ranker,
        optimizer,
        table,
        declared,
        learned,
        feature_spec,
        checkpoint_dir,
    )


def complete(
    job: RankerJob, trained: TrainedRanker, strategy: tf.distribute.Strategy
) -> None:
    """Makes a trained ranker ready for its export, and records its scores.

    If its tables are divided, all workers call this, which saves the tables.
    """
    worker = devices.place(strategy)
    with strategy.scope():
        never_trained = trained.model.share_oov_row(trained.optimizer)
        divided = any(map(divided_tables.is_divided, trained.model.variables))
        if divided:
            counts = devices.gather([never_trained], strategy)
            never_trained = int(counts.sum())
            divided_tables.save_trained(
                trained.checkpoint_dir,
                trained.model,
                worker.index,
                worker.count,
                wait=lambda: devices.gather([0], strategy),
            )
    config = config_lib.TrainerConfig(**job.settings["trainer"])
    scores: dict[str, Any] = _scores(
        trained.model,
        trained.declared,
        input_fn.request_dataset(
            [job.eval_files], trained.feature_spec, config.batch_requests
        ),
        config.validation_requests,
    )
    if worker.index == 0:
        run_dir = pathlib.Path(job.run_dir)
        np.savez(run_dir / SCORES_FILE, **scores)
        record = {"items_never_trained": never_trained}
        write_json(run_dir / trainer.RUN_FILE, record)


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
        WorkerLost: one of several workers ended early.
    """
    settings = json.loads(custom_config)
    trainer_config = config_lib.TrainerConfig(**settings["trainer"])
    export_config = config_lib.ExportConfig(**settings["export"])
    cluster = workers.cluster(os.environ)
    count = workers.count(cluster) if cluster else trainer_config.workers
    # How many workers share the batches does not change the training.
    settings["trainer"].pop("workers", None)
    settings["trainer"]["shards"] = trainer_config.shards or count
    train_files, eval_files = split_files(examples)
    run_dir = pathlib.Path(model_run.uri)
    run_dir.mkdir(parents=True, exist_ok=True)
    job = RankerJob(
        settings=settings,
        train_files=train_files,
        transform_graph=transform_graph.uri,
        table_dir=str(pathlib.Path(item_table.uri) / TABLE_DIR),
        checkpoint_root=checkpoint_root,
        code_fingerprint=code_fingerprint,
        eval_files=eval_files,
        run_dir=str(run_dir),
    )
    start = time.monotonic()
    if count > 1:
        workers.train(
            pathlib.Path(checkpoint_root),
            dataclasses.asdict(job),
            [cluster] if cluster else workers.local_clusters(count),
        )
    # After workers trained, this takes their last checkpoint.
    strategy = devices.choose_strategy()
    trained = train_ranker(job, strategy, after_workers=count > 1)
    ranker = trained.model
    tables = divided_tables.trained(trained.checkpoint_dir, ranker)
    if any(map(divided_tables.is_divided, ranker.variables)):
        progress.report("tables divided among workers stay in their files")
    else:
        complete(job, trained, strategy)
        ranker.save(run_dir / MODEL_FILE)
    record = json.loads((run_dir / trainer.RUN_FILE).read_text("utf-8"))
    record |= {
        "trainable_weights": checkpoints.count_weights(ranker),
        "items": trained.table.num_items,
        "devices": ranker.distribute_strategy.num_replicas_in_sync,
        "workers": count,
        "seconds": round(time.monotonic() - start, 1),
    }
    write_json(run_dir / trainer.RUN_FILE, record)
    progress.report("exporting the SavedModel")
    exported = export.export_saved_model(
        path_utils.serving_model_dir(model.uri),
        model=ranker,
        item_table=trained.table,
        features=trained.declared.features,
        learned=trained.learned,
        schema=trained.declared,
        max_history=settings["transform"]["max_history"],
        transform_output=job.transform_graph,
        target=export_config.target,
        devices=_devices(export_config.gpus),
        tables=tables,
        user_cache=export.UserCacheConfig(
            **export_config.user_cache.model_dump()
        ),
    )
    progress.report(f"exported {exported.memory_summary()}")
    model.set_string_custom_property(MODEL_TYPE, settings["model"]["type"])
    shutil.rmtree(trained.checkpoint_dir, ignore_errors=True)


def _devices(gpus: int) -> list[str]:
    """Returns the devices over which tables are spread; none for one GPU."""
    return [f"GPU:{place}" for place in range(gpus)] if gpus > 1 else []


def _check_table(table: ItemTable, declared: RankingSchema) -> None:
    """Refuses a table that was made with another declaration."""
    made_with = table.manifest.get("schema", {}).get("digest")
    if made_with not in (None, declared.digest()):
        raise ValueError(
            f"{table.path}: expected an item table of the declaration "
            f"{declared.name}, digest {declared.digest()}; run ItemTableGen "
            f"again. Received: digest {made_with}"
        )


def _scores(
    model: keras.Model,
    declared: RankingSchema,
    requests: tf.data.Dataset,
    count: int,
) -> dict[str, npt.NDArray[Any]]:
    """Returns the model's scores of at least `count` requests.

    User and candidates identify a request: there are ``user_id`` (n,),
    ``lengths`` (n,), and the flat ``candidate_item_ids``,
    ``click_probability`` and ``<label>_probability`` of other labels. All
    workers score all requests.
    """
    strategy = model.distribute_strategy

    @tf.function(autograph=False, reduce_retracing=True)
    def score(inputs: dict[str, tf.Tensor]) -> dict[str, Any]:
        found = strategy.run(
            lambda: model.probabilities(model(inputs, training=False))
        )
        return {
            name: strategy.experimental_local_results(values)[0]
            for name, values in found.items()
        }

    users, lengths, candidates = [], [], []
    scores: dict[str, list[np.ndarray]] = {}
    for batch in requests:
        inputs, _, _ = input_fn.training_batch(batch, declared)
        mask = inputs["candidate_mask"].numpy()
        for name, values in score(inputs).items():
            scores.setdefault(name, []).append(values.numpy()[mask])
        users.append(batch[features.USER_ID].numpy()[:, 0])
        lengths.append(mask.sum(axis=1))
        candidates.append(inputs[features.CANDIDATE_ITEM_IDS].numpy()[mask])
        if sum(map(len, users)) >= count:
            break
    columns = {
        "user_id": users,
        "lengths": lengths,
        "candidate_item_ids": candidates,
        **scores,
    }
    return {name: np.concatenate(parts) for name, parts in columns.items()}
