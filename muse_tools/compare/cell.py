"""One cell: a training and its scores on the held-out impressions."""

from __future__ import annotations

import pathlib
import shutil
import time
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_transform as tft

from muse_keras.tables import ItemTable
from muse_tools.compare.impressions import Impressions
from muse_tools.compare.plan import METRICS_FILE, Plan, Prepared, Task
from schemas.ranking_schema import RankingSchema
from serving.files import replaced_folder, write_json
from tfx_pipeline import config as pipeline_config
from tfx_pipeline import learned_values
from tfx_pipeline.evaluation.ranking_metrics import ranking_metrics
from tfx_pipeline.training import devices, input_fn, trainer

SCORES_FILE = "scores.npz"
SETTINGS_FILE = "settings.json"
CURVES_FILE = "training.jsonl"
_METRICS = (
    "gauc",
    "auc",
    "log_loss",
    "calibration",
    "normalized_entropy",
    "calibration_error",
)


def run_cell(plan: Plan, task: Task) -> None:
    """Trains a cell for one epoch, scores it and writes its folder.

    The folder appears only when it is complete, so a process that is killed
    leaves no cell.

    Raises:
        RuntimeError: if the prepared data has changed.
    """
    keras.backend.clear_session()  # Frees the model of the previous cell.
    with replaced_folder(plan.folder(task)) as working:
        data = plan.data[task.data_set]
        impressions = Impressions.load(pathlib.Path(data.impressions))
        scores, record = _train(task, data, plan.score_batch, working)
        if len(scores) != len(impressions.clicks):
            raise RuntimeError(
                f"{len(scores):,} scores for {len(impressions.clicks):,} "
                "impressions; the prepared data has changed. Start again."
            )
        np.savez_compressed(working / SCORES_FILE, scores=scores)
        write_json(
            working / SETTINGS_FILE,
            {"name": task.name, "key": task.key, **task.settings},
        )
        # Intervals are computed later, from the scores of all seeds.
        found = ranking_metrics(
            impressions.user_ids,
            impressions.clicks,
            scores,
            bootstrap_samples=1,
        )
        metrics = {name: found[name] for name in _METRICS}
        write_json(working / METRICS_FILE, {**metrics, **record})


def _train(
    task: Task, data: Prepared, batch: int, working: pathlib.Path
) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
    """Returns scores float32 (impressions,), and sizes and durations."""
    model_config = pipeline_config.ModelConfig(**task.settings["model"])
    trainer_config = pipeline_config.TrainerConfig(**task.settings["trainer"])
    history = task.settings["history"]
    declared = RankingSchema.model_validate(task.settings["schema"])
    transform = tft.TFTransformOutput(data.transform_graph)
    spec = transform.transformed_feature_spec()
    table = ItemTable.open(data.item_tables[task.settings["embeddings"]])
    strategy = devices.choose_strategy()
    keras.utils.set_random_seed(trainer_config.seed)
    with strategy.scope():
        model = trainer.build_model(
            model_config,
            table,
            declared,
            learned_values.read_learned(transform, declared.features),
            trainer_config.compute_dtype,
        )
        optimizer = trainer.build_optimizer(trainer_config)
    start = time.monotonic()
    trainer.train(
        model,
        optimizer,
        [data.train_files[history]],
        spec,
        trainer_config,
        declared,
        strategy=strategy,
        checkpoint_dir=working / "checkpoints",
        curves_path=working / CURVES_FILE,
    )
    trained = time.monotonic()
    shutil.rmtree(working / "checkpoints")
    trainer.compute_in_float32(model)
    model.share_oov_row(optimizer)
    scores = _scores(model, data.eval_files[history], spec, batch, declared)
    record = {
        "parameters": _count(model.trainable_variables),
        "parameters_without_tables": _count(model.trainable_variables)
        - sum(
            _count([layer.embeddings])
            for layer in (
                model.item_embedding,
                *model.feature_embeddings.values(),
                model.user_embedding,
            )
        ),
        "train_seconds": round(trained - start, 2),
        "score_seconds": round(time.monotonic() - trained, 2),
    }
    return scores, record


def _scores(
    model: keras.Model,
    pattern: str,
    spec: dict[str, Any],
    batch: int,
    declared: RankingSchema,
) -> npt.NDArray[np.float32]:
    """Returns click probabilities, float32 (impressions,)."""

    @tf.function(reduce_retracing=True)
    def score(inputs: dict[str, tf.Tensor]) -> tf.Tensor:
        logits = model(inputs, training=False)
        return model.probabilities(logits)["click_probability"]

    found = [np.zeros(0, np.float32)]
    for requests in input_fn.request_dataset([pattern], spec, batch):
        inputs, _, _ = input_fn.training_batch(requests, declared)
        scores = score(inputs).numpy()
        found.append(scores[inputs["candidate_mask"].numpy()])
    return np.concatenate(found)


def _count(variables: list[Any]) -> int:
    return sum(int(np.prod(variable.shape)) for variable in variables)
