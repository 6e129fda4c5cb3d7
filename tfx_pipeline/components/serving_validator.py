"""ServingValidator: an exported model must answer in a server as it should."""

import pathlib
from collections.abc import Collection
from typing import Any

import numpy as np
import tensorflow as tf
from tfx.v1.dsl.components import (
    InputArtifact,
    OutputArtifact,
    Parameter,
    component,
)

from muse_keras.tables import ItemTable
from serving import client as client_lib
from serving import local_server
from serving.export import op_compatibility
from serving.files import write_json
from tfx_pipeline import features, progress
from tfx_pipeline.components import matching_checks, serving_checks
from tfx_pipeline.components.artifacts import (
    SCORES_FILE,
    TABLE_DIR,
    ItemTableArtifact,
    split_files,
)
from tfx_pipeline.matching.settings import MODEL_NAME, RANKER_NAME
from tfx_pipeline.tfx_internals import (
    path_utils,
    standard_artifacts,
)

REPORT_FILE = "report.json"


@component
def ServingValidator(
    model: InputArtifact[standard_artifacts.Model],
    item_table: InputArtifact[ItemTableArtifact],
    blessing: OutputArtifact[standard_artifacts.InfraBlessing],
    model_run: InputArtifact[standard_artifacts.ModelRun] = None,
    examples: InputArtifact[standard_artifacts.Examples] = None,
    evaluation: InputArtifact[standard_artifacts.ModelEvaluation] = None,
    tolerance: Parameter[float] = 1e-4,
    timeout_s: Parameter[float] = 300.0,
    max_p99_ms: Parameter[float] = None,
) -> None:
    """Boots a model server on an export and calls every signature by gRPC.

    Where a ranker ranks, it must give the scores that the trainer recorded
    (`serving_checks`); a retrieval model must find the best of all
    items (`matching_checks`); where items are looked up, what the item table
    holds.

    What the model answers is a verdict, which TFX keeps for this model. A
    server that does not start or does not answer says nothing about the
    model: that is an error, and the next run validates.

    Args:
        model: the exported model.
        item_table: that the model was exported with.
        blessing: receives the verdict and ``report.json``.
        model_run: of a ranker, the trainer's record of scores.
        examples: of a ranker, request-grouped Examples with a split ``eval``.
        evaluation: of a retrieval model, its weights and clicks.
        tolerance: largest allowed difference of a probability or score.
        timeout_s: seconds for the server to come up, and for each call.
        max_p99_ms: largest 99th percentile of ``rank``, one request per call,
            in milliseconds; None for no limit.

    Raises:
        ServerDidNotStart: the server ended or was not ready in time.
        MuseClientError: a call failed.
        ValueError: a signature has no check, or a request that the trainer
            scored is not among the Examples.
    """
    report: dict[str, Any] = {"tolerance": tolerance, "max_p99_ms": max_p99_ms}
    saved_model = path_utils.serving_model_path(model.uri)
    table = ItemTable.open(pathlib.Path(item_table.uri) / TABLE_DIR)
    if problems := op_compatibility.problems(saved_model):
        report["worst_difference"] = {}
        blessed, verdict = False, problems[0]
    else:
        name = MODEL_NAME if evaluation else RANKER_NAME
        timeouts = client_lib.Timeouts(call=timeout_s, total=timeout_s)
        with (
            local_server.local_server(
                {name: pathlib.Path(saved_model)}, timeout_s=timeout_s
            ) as address,
            client_lib.MuseClient(
                address.grpc, model=name, timeouts=timeouts
            ) as client,
        ):
            served: serving_checks.Ranker | matching_checks.Matcher
            if evaluation:
                expected = matching_checks.Expected.read(
                    table, pathlib.Path(evaluation.uri)
                )
                report["requests"] = len(expected.histories())
                served = matching_checks.Matcher(client, expected)
            else:
                replays = _replays(
                    pathlib.Path(model_run.uri) / SCORES_FILE,
                    split_files(examples, [features.EVAL_SPLIT])[0],
                    client.metadata().signatures["rank"].inputs,
                )
                report["requests"] = len(replays)
                served = serving_checks.Ranker(client, replays, table)
            blessed, verdict = _validate(served, report)
    report.update({"blessed": blessed, "verdict": verdict})
    progress.report(f"ServingValidator: {verdict}")
    folder = pathlib.Path(blessing.uri)
    write_json(folder / REPORT_FILE, report)
    (folder / ("INFRA_BLESSED" if blessed else "INFRA_NOT_BLESSED")).touch()
    blessing.set_int_custom_property("blessed", int(blessed))


def _validate(
    served: serving_checks.Ranker | matching_checks.Matcher,
    report: dict[str, Any],
) -> tuple[bool, str]:
    """Checks what a server answers; the report receives what was measured."""
    try:
        report["worst_difference"] = served.differences()
    except serving_checks.WrongAnswer as error:
        return False, str(error)
    if isinstance(served, serving_checks.Ranker):
        report["rank_ms"] = served.rank_ms()
    return judged(report)


def judged(report: dict[str, Any]) -> tuple[bool, str]:
    """Returns the verdict on what was measured, and why."""
    allowed, limit = report["tolerance"], report["max_p99_ms"]
    differences, times = report["worst_difference"], report.get("rank_ms")
    name, worst = max(differences.items(), key=lambda item: item[1])
    verdict = (
        f"{report['requests']} requests replayed to {len(differences)} "
        f"signatures, largest difference {worst:.2e} ({name}), allowed "
        f"{allowed:.0e}"
    )
    if times:
        verdict += (
            f"; rank p50 {times['p50']:.1f} ms, p99 {times['p99']:.1f} ms"
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


def _replays(
    scores: pathlib.Path, pattern: str, inputs: Collection[str]
) -> list[serving_checks.Replay]:
    """Returns the requests that the trainer scored, out of the split.

    They carry the features that are `inputs` of the model.
    """
    expected = _expected(scores)
    files = tf.data.Dataset.list_files(pattern, shuffle=False)
    found: dict[_Key, serving_checks.Replay] = {}
    for record in tf.data.TFRecordDataset(files, compression_type="GZIP"):
        serialized = record.numpy()
        example = _decode(serialized)
        key = (
            int(example[features.USER_ID][0]),
            example[features.CANDIDATE_ITEM_IDS].tobytes(),
        )
        if key in expected:
            found[key] = serving_checks.Replay(
                serialized, _rank_request(example, inputs), expected[key]
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


def _rank_request(
    example: dict[str, np.ndarray], inputs: Collection[str]
) -> client_lib.RankRequest:
    def named(prefix: str, not_a_feature: str) -> dict[str, np.ndarray]:
        return {
            name.removeprefix(prefix): values
            for name, values in example.items()
            if name.startswith(prefix) and name != not_a_feature
            if name in inputs
        }

    users = named("user_", features.USER_ID)
    return client_lib.RankRequest(
        user_id=int(example[features.USER_ID][0]),
        candidate_item_ids=example[features.CANDIDATE_ITEM_IDS],
        behavior_item_ids=example[features.BEHAVIOR_ITEM_IDS],
        user={name: int(values[0]) for name, values in users.items()},
        behaviors=named("behavior_", features.BEHAVIOR_ITEM_IDS),
    )
