"""Which data, code and versions a trained model comes from."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
from typing import Any

from ml_metadata.proto import metadata_store_pb2 as mlmd

from tfx_pipeline import config as config_lib
from tfx_pipeline import lineage

__all__ = ["History", "trace", "versions"]

_PACKAGES = (
    "muse-tensorflow",
    "tensorflow",
    "keras",
    "tfx",
    "tensorflow-transform",
    "tensorflow-model-analysis",
    "apache-beam",
    "numpy",
)


@dataclasses.dataclass(frozen=True)
class History:
    """How one model came about.

    Attributes:
        training_seconds: wall time of the execution that trained it.
        data: fingerprint of the raw tables, or ``unknown``.
        facts: ``(what, value)`` of everything upstream.
    """

    training_seconds: float | None
    data: str
    facts: list[tuple[str, str]]


def trace(
    config: config_lib.PipelineConfig, runs: dict[str, lineage.ModelRun]
) -> dict[str, History]:
    """Follows each model back to its data.

    Args:
        config: the pipeline.
        runs: of `lineage.model_runs`.
    """
    store = lineage.open_store(config)
    return {name: _trace_one(store, run) for name, run in runs.items()}


def versions() -> list[tuple[str, str]]:
    """Returns the versions of Python and of the packages that matter."""
    found = [("Python", platform.python_version())]
    for package in _PACKAGES:
        try:
            found.append((package, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _trace_one(store: Any, run: lineage.ModelRun) -> History:
    waiting = [
        artifact.id
        for artifact in store.get_artifacts_by_uri(str(run.model_dir))
    ]
    seen: dict[int, mlmd.Execution] = {}
    first: mlmd.Execution | None = None
    while waiting:
        events = store.get_events_by_artifact_ids(waiting)
        makers = {
            event.execution_id
            for event in events
            if event.type == mlmd.Event.OUTPUT
        } - seen.keys()
        # A cached execution has the same output; the one that ran counts.
        executions = [
            one
            for one in store.get_executions_by_id(sorted(makers))
            if one.last_known_state == mlmd.Execution.COMPLETE
        ]
        first = first or next(iter(executions), None)
        seen.update({one.id: one for one in executions})
        waiting = (
            [
                event.artifact_id
                for event in store.get_events_by_execution_ids(
                    [one.id for one in executions]
                )
                if event.type == mlmd.Event.INPUT
            ]
            if executions
            else []
        )
    facts = []
    data = "unknown"
    for number in sorted(seen):
        execution = seen[number]
        for key in ("raw_fingerprint", "code_fingerprint"):
            value = _text(execution, key)
            if not value:
                continue
            if key == "raw_fingerprint":
                data = value
            facts.append((f"{execution.type.rpartition('.')[2]} {key}", value))
    if run.settings.get("code_fingerprint"):
        facts.append(
            ("trainer code_fingerprint", run.settings["code_fingerprint"])
        )
    return History(
        training_seconds=(
            (first.last_update_time_since_epoch - first.create_time_since_epoch)
            / 1e3
            if first
            else None
        ),
        data=data,
        facts=facts,
    )


def _text(execution: mlmd.Execution, key: str) -> str:
    if key not in execution.custom_properties:
        return ""
    return execution.custom_properties[key].string_value
