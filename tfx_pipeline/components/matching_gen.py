"""MatchingGen: makes and evaluates the retrieval model."""

import dataclasses
import json
import os
import pathlib
import tempfile

import apache_beam as beam
import numpy as np
from tfx.v1.dsl.components import (
    BeamComponentParameter,
    InputArtifact,
    OutputArtifact,
    Parameter,
    component,
)

from muse_keras.tables import ItemTable
from serving.export import warmup
from serving.export.saving import place_variables
from serving.files import dumps
from tfx_pipeline import progress
from tfx_pipeline.components.artifacts import (
    RESULT,
    TABLE_DIR,
    ItemTableArtifact,
    split_files,
)
from tfx_pipeline.matching import inputs, process
from tfx_pipeline.matching.settings import EVALUATION_FILE, MODEL_NAME, Job
from tfx_pipeline.tfx_internals import (
    path_utils,
    standard_artifacts,
)

_WARMUP_ITEMS = 8


@component(use_beam=True)
def MatchingGen(
    item_table: InputArtifact[ItemTableArtifact],
    examples: InputArtifact[standard_artifacts.Examples],
    model: OutputArtifact[standard_artifacts.Model],
    evaluation: OutputArtifact[standard_artifacts.ModelEvaluation],
    blessing: OutputArtifact[standard_artifacts.ModelBlessing],
    settings: Parameter[str],
    min_recall: Parameter[float] = 0.0,
    exact_items: Parameter[int] = 200_000,
    beam_pipeline: BeamComponentParameter[beam.Pipeline] = None,
) -> None:
    """Makes and evaluates the retrieval model, which finds candidates.

    Beam counts clicks, samples users and, above ``exact_items``, finds the
    clusters of the items. The model is made in a process of its own, because
    TensorFlow Recommenders does not support Keras 3.

    Args:
        item_table: items and their vectors.
        examples: request-grouped Examples, splits ``train`` and ``eval``.
        model: receives the SavedModel.
        evaluation: receives recall and the weights of the score.
        blessing: receives whether the recall is high enough.
        settings: JSON of the fields of `matching.settings.Job` that are not
            paths.
        min_recall: least recall of held-out clicks by a whole answer.
        exact_items: largest number of items whose index is exact.
        beam_pipeline: made by TFX. Its workers and this process must share
            the folder of the model.

    Raises:
        MatchingFailed: the process failed.
    """
    table_dir = pathlib.Path(item_table.uri) / TABLE_DIR
    model_dir = pathlib.Path(path_utils.serving_model_dir(model.uri))
    pathlib.Path(model.uri).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=".matching", dir=model.uri
    ) as folder:
        job = Job(
            item_table=str(table_dir),
            train_clicks=os.path.join(folder, "train.clicks"),
            eval_clicks=os.path.join(folder, "eval.clicks"),
            model_dir=str(model_dir),
            evaluation_dir=evaluation.uri,
            **json.loads(settings),
        )
        if ItemTable.open(table_dir).num_items > exact_items:
            job = dataclasses.replace(job, clusters=folder)
        train_files, eval_files = split_files(examples)
        with beam_pipeline or beam.Pipeline() as pipeline:
            inputs.write_inputs(pipeline, job, train_files, eval_files)
        process.run_job(
            job, lambda line: progress.report(f"MatchingGen: {line}")
        )
    # The serving machine chooses the device of the index.
    place_variables(model_dir)
    _write_warmup(model_dir, ItemTable.open(table_dir))
    file = pathlib.Path(evaluation.uri) / EVALUATION_FILE
    found = json.loads(file.read_text(encoding="utf-8"))
    *_, (k, whole_answer) = found["recall"]["matching"].items()
    # NaN is refused too.
    blessed = whole_answer["recall"] >= min_recall
    if not blessed:
        progress.report(
            f"MatchingGen: not pushed: recall {whole_answer['recall']:.4f} "
            f"among {k} items, at least {min_recall} is needed"
        )
    result = {
        "metric": f"recall@{k}",
        "recall": whole_answer["recall"],
        "recall_lower": whole_answer["low"],
        "recall_upper": whole_answer["high"],
        "refused": ""
        if blessed
        else f"below matching.min_recall {min_recall:g}",
    }
    evaluation.set_string_custom_property(RESULT, dumps(result))
    blessing.set_int_custom_property("blessed", int(blessed))
    name = "BLESSED" if blessed else "NOT_BLESSED"
    (pathlib.Path(blessing.uri) / name).touch()


def _write_warmup(model_dir: pathlib.Path, table: ItemTable) -> None:
    """Writes requests that a server replays before it serves the model."""
    ids = np.asarray(table.item_ids[np.newaxis, :_WARMUP_ITEMS])
    behaviors = {"behavior_item_ids": ids}
    folder = model_dir / "assets.extra"
    folder.mkdir()
    warmup.write_requests(
        folder,
        [
            ("serving_default", behaviors),
            ("recommend", behaviors),
            ("search", {"query_vector": np.ones((1, table.dim), np.float32)}),
        ],
        MODEL_NAME,
    )
