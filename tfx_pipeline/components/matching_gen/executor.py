"""Work of MatchingGen."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging
from google.protobuf import text_format

from muse_keras.tables import ItemTable
from serving.client import MuseClient, Timeouts
from serving.export import op_compatibility, warmup
from serving.export.saving import clear_devices
from serving.files import write_text
from serving.local_server import local_server
from tfx_pipeline import features, progress
from tfx_pipeline.components import atomic_pusher
from tfx_pipeline.components.item_table_gen.executor import TABLE_DIR
from tfx_pipeline.components.matching_gen import checks
from tfx_pipeline.matching import process
from tfx_pipeline.matching.settings import (
    CLICKS_FILE,
    EVALUATION_FILE,
    MODEL_NAME,
    Job,
    Scoring,
)
from tfx_pipeline.tfx_internals import artifact_utils, base_executor, path_utils

__all__ = ["Executor", "write_models_config"]

_RANKER_NAME = "muse"
_WARMUP_ITEMS = 8
_TIMEOUT_S = 600


class Executor(base_executor.BaseExecutor):
    """Has the model made by a process of its own, and pushes it."""

    def Do(
        self,
        input_dict: dict[str, list],
        output_dict: dict[str, list],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes the model, its evaluation and, unless too bad, pushes it.

        Args:
            input_dict: ``item_table`` and ``examples``.
            output_dict: ``model`` and ``evaluation``.
            exec_properties: as in `MatchingGenSpec`.

        Raises:
            MatchingFailed: the process failed.
            ValueError: the model in a server does not answer as it should.
            ServerDidNotStart: the server ended or was not ready in time.
            MuseClientError: a call failed.
        """
        table = artifact_utils.get_single_instance(input_dict["item_table"])
        examples = artifact_utils.get_single_instance(input_dict["examples"])
        model = artifact_utils.get_single_instance(output_dict["model"])
        evaluation = artifact_utils.get_single_instance(
            output_dict["evaluation"]
        )
        table_dir = pathlib.Path(table.uri) / TABLE_DIR
        model_dir = pathlib.Path(path_utils.serving_model_dir(model.uri))

        def files(split: str) -> str:
            uri = artifact_utils.get_split_uri([examples], split)
            return os.path.join(uri, "*")

        job = Job(
            item_table=str(table_dir),
            train_files=files(features.TRAIN_SPLIT),
            eval_files=files(features.EVAL_SPLIT),
            model_dir=str(model_dir),
            evaluation_dir=evaluation.uri,
            **json.loads(exec_properties["settings"]),
        )
        process.run_job(
            job, lambda line: progress.report(f"MatchingGen: {line}")
        )
        # Where the index lies is for the machine that serves to choose.
        clear_devices(model_dir)
        item_table = ItemTable.open(table_dir)
        _write_warmup(model_dir, item_table)
        found = json.loads(
            (pathlib.Path(evaluation.uri) / EVALUATION_FILE).read_text(
                encoding="utf-8"
            )
        )
        *_, whole_answer = found["recall"]["matching"].values()
        recall, least = whole_answer["recall"], exec_properties["min_recall"]
        # No number is below everything.
        if not recall >= least:
            progress.report(
                f"MatchingGen: not pushed: recall {recall:.4f} among "
                f"{found['num_candidates']} items, at least {least} is needed"
            )
            return
        with np.load(pathlib.Path(evaluation.uri) / CLICKS_FILE) as clicks:
            expected = checks.Expected(
                item_table,
                clicks["item_ids"],
                clicks["clicks"],
                Scoring(**found["scoring"]),
                job.max_behaviors,
            )
        _validate(model_dir, expected)
        push_dir = pathlib.Path(exec_properties["push_dir"])
        pushed = atomic_pusher.push(model_dir, push_dir)
        ranker_dirs = json.loads(exec_properties["ranker_dirs"])
        for name, ranker_dir in ranker_dirs.items():
            write_models_config(
                push_dir / name,
                {
                    _RANKER_NAME: pathlib.Path(ranker_dir),
                    MODEL_NAME: push_dir,
                },
            )
        model.set_string_custom_property("pushed_destination", str(pushed))
        logging.info("Matching model pushed to %s.", pushed)


def _validate(model_dir: pathlib.Path, expected: checks.Expected) -> None:
    """Boots a server and checks what it answers."""
    if problems := op_compatibility.problems(model_dir):
        raise ValueError(problems[0])
    timeouts = Timeouts(call=_TIMEOUT_S, total=_TIMEOUT_S)
    with (
        local_server({MODEL_NAME: model_dir}, timeout_s=_TIMEOUT_S) as address,
        MuseClient(address.grpc, model=MODEL_NAME, timeouts=timeouts) as client,
    ):
        checks.check(client, expected)
    progress.report(
        f"MatchingGen: {len(checks.CHECKS)} signatures answer as the item table"
    )


def write_models_config(
    path: pathlib.Path, models: Mapping[str, pathlib.Path]
) -> None:
    """Writes a ``models.config`` for ``muse serve``, all at once.

    Paths are relative to it, so that the folder may be copied. TensorFlow
    Serving needs absolute ones: ``serving/tf_serving`` has its files.

    Args:
        path: file.
        models: name to base directory.
    """
    from tensorflow_serving.config import model_server_config_pb2

    config = model_server_config_pb2.ModelServerConfig()
    for name, folder in models.items():
        model = config.model_config_list.config.add()
        model.name = name
        model.base_path = os.path.relpath(folder, path.parent)
        model.model_platform = "tensorflow"
        model.model_version_policy.latest.num_versions = 1
    write_text(path, text_format.MessageToString(config))


def _write_warmup(model_dir: pathlib.Path, table: ItemTable) -> None:
    """Adds requests that a server replays before it serves the model."""
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
