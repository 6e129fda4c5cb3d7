"""ServingValidator: checks the answers of an exported model in a server."""

import pathlib
from collections.abc import Collection, Mapping
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
    """Starts a model server with an export and calls every signature by gRPC.

    A ranker must return the scores that the trainer recorded
    (`serving_checks`). A retrieval model must find the best of all items
    (`matching_checks`). Signatures that look up items must return the content
    of the item table.

    The result is a verdict on this model, which TFX caches. If the server does
    not start or does not answer, that is an error instead of a verdict, and the
    next run validates again.

    Args:
        model: the exported model.
        item_table: the item table with which the model was exported.
        blessing: receives the verdict and ``report.json``.
        model_run: for a ranker, the trainer's record of scores.
        examples: for a ranker, request-grouped Examples with a split ``eval``.
        evaluation: for a retrieval model, its weights and clicks.
        tolerance: largest allowed difference of a probability or score.
        timeout_s: seconds for the server to start, and for each call.
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
    """Checks the answers of a server and adds the results to the report."""
    try:
        report["worst_difference"] = served.differences()
    except serving_checks.WrongAnswer as error:
        return False, str(error)
    if isinstance(served, serving_checks.Ranker):
        report["rank_ms"] = served.rank_ms()
    return judged(report)


def judged(report: dict[str, Any]) -> tuple[bool, str]:
    """Returns whether a report is good enough, and the verdict as text."""
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
_NO_FEATURES = (
    features.USER_ID,
    features.BEHAVIOR_ITEM_IDS,
    features.CANDIDATE_ITEM_IDS,
)


def _expected(path: pathlib.Path) -> dict[_Key, serving_checks.Scores]:
    """Returns the trainer's scores of each label by user and candidates."""
    with np.load(path) as stored:
        ends = np.cumsum(stored["lengths"])[:-1]
        candidates = np.split(stored["candidate_item_ids"], ends)
        scores = {
            name.removesuffix("_probability"): np.split(stored[name], ends)
            for name in stored.files
            if name.endswith("_probability")
        }
        return {
            (int(user), ids.tobytes()): {
                label: values[place] for label, values in scores.items()
            }
            for place, (user, ids) in enumerate(
                zip(stored["user_id"], candidates, strict=True)
            )
        }


def _replays(
    scores: pathlib.Path,
    pattern: str,
    inputs: Mapping[str, client_lib.TensorSpec],
) -> list[serving_checks.Replay]:
    """Returns the requests of the split that the trainer scored.

    They have the features that are `inputs` of the model.

    Raises:
        ValueError: a request is not in the split.
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
            places = _of_one_context(example, inputs)
            found[key] = serving_checks.Replay(
                serialized,
                _rank_request(example, inputs, places),
                expected[key],
                places,
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
        name: np.asarray(feature.float_list.value, np.float32)
        if feature.HasField("float_list")
        else np.asarray(feature.int64_list.value, np.int64)
        for name, feature in example.features.feature.items()
    }


def _of_one_context(
    example: dict[str, np.ndarray], inputs: Collection[str]
) -> np.ndarray:
    """Returns positions of the candidates with the first one's context.

    An Example has a context for each candidate, a request only one.
    """
    count = len(example[features.CANDIDATE_ITEM_IDS])
    same = np.ones(count, bool)
    for name in inputs:
        if name.startswith("context_"):
            values = example[name].reshape(count, -1)
            missing = np.isnan(values) & np.isnan(values[:1])
            same &= ((values == values[:1]) | missing).all(axis=1)
    return np.flatnonzero(same)


def _rank_request(
    example: dict[str, np.ndarray],
    inputs: Mapping[str, client_lib.TensorSpec],
    places: np.ndarray,
) -> client_lib.RankRequest:
    """Returns the request for the candidates at the given positions."""
    items = example[features.CANDIDATE_ITEM_IDS]
    history = example[features.BEHAVIOR_ITEM_IDS]

    def named(prefix: str, count: int, axes: int) -> dict[str, Any]:
        found = {
            name: example[name].reshape(count, -1)
            for name in inputs
            if name.startswith(prefix) and name in example
            if name not in _NO_FEATURES
        }
        return {
            name.removeprefix(prefix): values
            if len(inputs[name].shape or ()) > axes
            else values[:, 0]
            for name, values in found.items()
        }

    def first(values: dict[str, np.ndarray]) -> dict[str, Any]:
        return {name: one[0] for name, one in values.items()}

    candidates = named("candidate_", len(items), 2)
    return client_lib.RankRequest(
        user_id=int(example[features.USER_ID][0]),
        candidate_item_ids=items[places],
        behavior_item_ids=history,
        user=first(named("user_", 1, 1)),
        behaviors={
            name.removeprefix("behavior_"): example[name]
            for name in inputs
            if name.startswith("behavior_") and name not in _NO_FEATURES
        },
        context=first(named("context_", len(items), 1)),
        candidates={name: one[places] for name, one in candidates.items()},
    )
