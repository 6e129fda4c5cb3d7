"""Work of ServingValidator."""

from __future__ import annotations

import functools
import json
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from serving import client as client_lib
from serving import local_server
from tfx_pipeline import features, progress
from tfx_pipeline.tfx_internals import artifact_utils, base_executor, path_utils
from tfx_pipeline.trainer import SCORES_FILE

__all__ = ["Executor", "REPORT_FILE", "compare_scores"]

REPORT_FILE = "report.json"
_BLESSED = "INFRA_BLESSED"
_NOT_BLESSED = "INFRA_NOT_BLESSED"
_BATCH = 16


class Executor(base_executor.BaseExecutor):
    """Replays requests and writes the blessing."""

    def Do(
        self,
        input_dict: dict[str, list],
        output_dict: dict[str, list],
        exec_properties: dict[str, Any],
    ) -> None:
        """Validates the model in a server.

        Args:
            input_dict: ``model``, ``model_run``, ``examples``.
            output_dict: ``blessing``.
            exec_properties: ``tolerance`` and ``timeout_s``.
        """
        model = artifact_utils.get_single_instance(input_dict["model"])
        run = artifact_utils.get_single_instance(input_dict["model_run"])
        examples = artifact_utils.get_single_instance(input_dict["examples"])
        blessing = artifact_utils.get_single_instance(output_dict["blessing"])
        expected = _expected(pathlib.Path(run.uri) / SCORES_FILE)
        requests = _find_requests(
            artifact_utils.get_split_uri([examples], features.EVAL_SPLIT),
            expected,
        )
        tolerance = exec_properties["tolerance"]
        report: dict[str, Any] = {
            "requests": len(requests),
            "tolerance": tolerance,
        }
        try:
            with local_server.local_server(
                path_utils.serving_model_path(model.uri),
                timeout_s=exec_properties["timeout_s"],
            ) as address:
                report.update(
                    compare_scores(
                        address.grpc,
                        requests,
                        expected,
                        exec_properties["timeout_s"],
                    )
                )
            worst = max(report["worst_difference"].values())
            blessed = worst <= tolerance
            verdict = (
                f"{len(requests)} requests replayed, largest difference "
                f"{worst:.2e}, allowed {tolerance:.0e}"
            )
        except (
            local_server.ServerDidNotStart,
            client_lib.MuseClientError,
        ) as error:
            blessed = False
            verdict = str(error)
        report.update({"blessed": blessed, "verdict": verdict})
        progress.report(f"ServingValidator: {verdict}")
        folder = pathlib.Path(blessing.uri)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / REPORT_FILE).write_text(
            json.dumps(report, indent=2) + "\n", encoding="utf-8"
        )
        (folder / (_BLESSED if blessed else _NOT_BLESSED)).touch()
        blessing.set_int_custom_property("blessed", int(blessed))


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


def _find_requests(
    split_uri: str, expected: dict[_Key, np.ndarray]
) -> dict[_Key, bytes]:
    files = tf.data.Dataset.list_files(
        os.path.join(split_uri, "*"), shuffle=False
    )
    found: dict[_Key, bytes] = {}
    for record in tf.data.TFRecordDataset(files, compression_type="GZIP"):
        serialized = record.numpy()
        example = _decode(serialized)
        key = (
            int(example[features.USER_ID][0]),
            example[features.CANDIDATE_ITEM_IDS].tobytes(),
        )
        if key in expected:
            found[key] = serialized
            if len(found) == len(expected):
                break
    if len(found) < len(expected):
        raise ValueError(
            f"{len(expected) - len(found)} of {len(expected)} requests that "
            "the trainer scored are not in the eval split."
        )
    return found


def _decode(serialized: bytes) -> dict[str, np.ndarray]:
    example = tf.train.Example.FromString(serialized)
    return {
        name: np.asarray(feature.int64_list.value, np.int64)
        for name, feature in example.features.feature.items()
    }


def compare_scores(
    address: str,
    requests: dict[_Key, bytes],
    expected: dict[_Key, np.ndarray],
    timeout_s: float,
) -> dict[str, Any]:
    """Sends every request to two signatures.

    Args:
        address: gRPC address of the server.
        requests: serialised Examples.
        expected: scores of the trainer.
        timeout_s: seconds per call.

    Returns:
        The largest difference and the median milliseconds of a call, by
        signature.
    """
    worst = {"serving_default": 0.0, "rank": 0.0}
    times: dict[str, list[float]] = {"serving_default": [], "rank": []}
    keys = list(requests)
    timeouts = client_lib.Timeouts(call=timeout_s, total=timeout_s)
    with client_lib.MuseClient(address, timeouts=timeouts) as client:
        for start in range(0, len(keys), _BATCH):
            chunk = keys[start : start + _BATCH]
            examples = [requests[key] for key in chunk]
            ranked = [_rank_request(_decode(example)) for example in examples]
            calls: dict[str, Callable[[], Any]] = {
                "serving_default": functools.partial(
                    client.predict_examples, examples
                ),
                "rank": functools.partial(client.rank, ranked),
            }
            for name, call in calls.items():
                began = time.perf_counter()
                answers = call()
                times[name].append(time.perf_counter() - began)
                for key, answer in zip(chunk, answers, strict=True):
                    difference = np.abs(
                        answer.click_probability - expected[key]
                    )
                    # No number is the worst answer of all.
                    difference = np.nan_to_num(difference, nan=np.inf)
                    worst[name] = max(worst[name], float(difference.max()))
    return {
        "worst_difference": worst,
        "median_batch_ms": {
            name: 1e3 * float(np.median(values))
            for name, values in times.items()
        },
    }


def _rank_request(example: dict[str, np.ndarray]) -> client_lib.RankRequest:
    return client_lib.RankRequest(
        user_id=int(example[features.USER_ID][0]),
        user_profile=[int(example[name][0]) for name in features.USER_PROFILE],
        behavior_item_ids=example[features.BEHAVIOR_ITEM_IDS],
        behavior_category_ids=example[features.BEHAVIOR_CATEGORY_IDS],
        candidate_item_ids=example[features.CANDIDATE_ITEM_IDS],
    )
