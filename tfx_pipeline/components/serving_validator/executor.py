"""Work of ServingValidator."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from muse_keras.tables import ItemTable
from serving import client as client_lib
from serving import local_server
from serving.export import op_compatibility
from serving.files import write_json
from tfx_pipeline import features, progress
from tfx_pipeline.components.item_table_gen.executor import TABLE_DIR
from tfx_pipeline.components.serving_validator import checks
from tfx_pipeline.tfx_internals import artifact_utils, base_executor, path_utils
from tfx_pipeline.training.trainer import SCORES_FILE

__all__ = ["REPORT_FILE", "Executor", "judged"]

REPORT_FILE = "report.json"
_BLESSED = "INFRA_BLESSED"
_NOT_BLESSED = "INFRA_NOT_BLESSED"


class Executor(base_executor.BaseExecutor):
    """Replays requests and writes the blessing."""

    def Do(
        self,
        input_dict: dict[str, list],
        output_dict: dict[str, list],
        exec_properties: dict[str, Any],
    ) -> None:
        """Validates the model in a server.

        What the model answers is a verdict, which TFX keeps for this model. A
        server that does not start or does not answer says nothing about the
        model: that is an error, and the next run validates.

        Args:
            input_dict: ``model``, ``model_run``, ``examples``, ``item_table``.
            output_dict: ``blessing``.
            exec_properties: ``tolerance``, ``timeout_s`` and, if there is a
                limit, ``max_p99_ms``.

        Raises:
            ServerDidNotStart: the server ended or was not ready in time.
            MuseClientError: a call failed.
            ValueError: a signature has no check, or a request that the
                trainer scored is not among the Examples.
        """
        model, run, examples, table = (
            artifact_utils.get_single_instance(input_dict[name])
            for name in ("model", "model_run", "examples", "item_table")
        )
        blessing = artifact_utils.get_single_instance(output_dict["blessing"])
        report: dict[str, Any] = {
            "tolerance": exec_properties["tolerance"],
            "max_p99_ms": exec_properties.get("max_p99_ms"),
        }
        saved_model = path_utils.serving_model_path(model.uri)
        problems = op_compatibility.problems(saved_model)
        if problems:
            report["worst_difference"] = {}
            blessed, verdict = False, problems[0]
        else:
            replays = _replays(
                pathlib.Path(run.uri) / SCORES_FILE,
                artifact_utils.get_split_uri([examples], features.EVAL_SPLIT),
            )
            report["requests"] = len(replays)
            blessed, verdict = _validate(
                saved_model,
                replays,
                ItemTable.open(pathlib.Path(table.uri) / TABLE_DIR),
                exec_properties["timeout_s"],
                report,
            )
        report.update({"blessed": blessed, "verdict": verdict})
        progress.report(f"ServingValidator: {verdict}")
        folder = pathlib.Path(blessing.uri)
        write_json(folder / REPORT_FILE, report)
        (folder / (_BLESSED if blessed else _NOT_BLESSED)).touch()
        blessing.set_int_custom_property("blessed", int(blessed))


def _validate(
    saved_model: str,
    replays: list[checks.Replay],
    table: ItemTable,
    timeout_s: float,
    report: dict[str, Any],
) -> tuple[bool, str]:
    """Boots a server and checks what it answers.

    Args:
        saved_model: version folder.
        replays: the requests.
        table: the item table that the model was exported with.
        timeout_s: seconds for the server to come up, and for each call.
        report: holds the limits; receives what was measured.

    Returns:
        Whether it is blessed, and why or why not.
    """
    timeouts = client_lib.Timeouts(call=timeout_s, total=timeout_s)
    with (
        local_server.local_server(saved_model, timeout_s=timeout_s) as address,
        client_lib.MuseClient(address.grpc, timeouts=timeouts) as client,
    ):
        try:
            differences = checks.worst_differences(client, replays, table)
        except checks.WrongAnswer as error:
            return False, str(error)
        milliseconds = checks.rank_ms(client, replays)
    report |= {"worst_difference": differences, "rank_ms": milliseconds}
    return judged(report)


def judged(report: dict[str, Any]) -> tuple[bool, str]:
    """Returns the verdict on what was measured; see `_validate`."""
    allowed, limit = report["tolerance"], report["max_p99_ms"]
    differences, times = report["worst_difference"], report["rank_ms"]
    name, worst = max(differences.items(), key=lambda item: item[1])
    verdict = (
        f"{report['requests']} requests replayed to {len(differences)} "
        f"signatures, largest difference {worst:.2e} ({name}), allowed "
        f"{allowed:.0e}; rank p50 {times['p50']:.1f} ms, p99 "
        f"{times['p99']:.1f} ms"
    )
    if limit is not None and times["p99"] > limit:
        return False, (
            f"{verdict}, over serving_validator.max_p99_ms {limit:g}"
        )
    return worst <= allowed, verdict


_Key = tuple[int, bytes]


def _expected(path: pathlib.Path) -> dict[_Key, np.ndarray]:
    """Returns the trainer's scores by user and candidates."""
    with np.load(path) as stored:
        ends = np.cumsum(stored["lengths"])[:-1]
        candidates = np.split(stored["candidate_item_ids"], ends)
        scores = np.split(stored["click_probability"], ends)
        return {
            (int(user), ids.tobytes()): values
            for user, ids, values in zip(
                stored["user_id"], candidates, scores, strict=True
            )
        }


def _replays(scores: pathlib.Path, split_uri: str) -> list[checks.Replay]:
    """Returns the requests that the trainer scored, out of the split."""
    expected = _expected(scores)
    files = tf.data.Dataset.list_files(
        os.path.join(split_uri, "*"), shuffle=False
    )
    found: dict[_Key, checks.Replay] = {}
    for record in tf.data.TFRecordDataset(files, compression_type="GZIP"):
        serialized = record.numpy()
        example = _decode(serialized)
        key = (
            int(example[features.USER_ID][0]),
            example[features.CANDIDATE_ITEM_IDS].tobytes(),
        )
        if key in expected:
            found[key] = checks.Replay(
                serialized, _rank_request(example), expected[key]
            )
            if len(found) == len(expected):
                break
    if len(found) < len(expected):
        raise ValueError(
            f"{len(expected) - len(found)} of {len(expected)} requests that "
            "the trainer scored are not in the eval split."
        )
    return list(found.values())


def _decode(serialized: bytes) -> dict[str, np.ndarray]:
    example = tf.train.Example.FromString(serialized)
    return {
        name: np.asarray(feature.int64_list.value, np.int64)
        for name, feature in example.features.feature.items()
    }


def _rank_request(example: dict[str, np.ndarray]) -> client_lib.RankRequest:
    return client_lib.RankRequest(
        user_id=int(example[features.USER_ID][0]),
        user_profile=[int(example[name][0]) for name in features.USER_PROFILE],
        behavior_item_ids=example[features.BEHAVIOR_ITEM_IDS],
        behavior_category_ids=example[features.BEHAVIOR_CATEGORY_IDS],
        candidate_item_ids=example[features.CANDIDATE_ITEM_IDS],
    )
