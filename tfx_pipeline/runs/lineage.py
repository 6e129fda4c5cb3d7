"""Reads the runs of a pipeline from ML Metadata."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import shutil
import sqlite3
import urllib.parse
from collections.abc import Iterator
from typing import Any

from ml_metadata.metadata_store import metadata_store
from ml_metadata.proto import metadata_store_pb2 as mlmd

from muse_tools.datasets.errors import DataError
from schemas.settings_file import ConfigError
from serving.files import newest_version
from tfx_pipeline import config as config_lib
from tfx_pipeline.matching.settings import MODEL_NAME

PASSWORD = "MUSE_METADATA_PASSWORD"
# Properties that do not affect the content of an artifact.
_INTERNAL = ("rejected_dir", "checkpoint_root", "name", "state")
DONE = (mlmd.Execution.COMPLETE, mlmd.Execution.CACHED)


@dataclasses.dataclass(frozen=True)
class ModelRun:
    """The newest finished training of one type of model, and later results.

    ``run_dir`` holds the trainer's records (curves, scores, Keras model; for
    the retrieval model its evaluation). ``evaluation`` is the recorded result
    of the evaluation. ``infra_blessing_dir`` holds the ServingValidator's
    report. ``pushed_before`` tells whether the last run found the push in the
    cache.
    """

    model_type: str
    settings: dict[str, Any]
    model_dir: pathlib.Path
    run_dir: pathlib.Path
    evaluation_dir: pathlib.Path | None
    evaluation: dict[str, Any] | None
    infra_blessing_dir: pathlib.Path | None
    infra_blessed: bool
    pushed_to: pathlib.Path | None
    pushed_before: bool


@dataclasses.dataclass(frozen=True)
class Finished:
    """A successful execution, maybe from the cache."""

    properties: dict[str, Any]
    outputs: dict[str, mlmd.Artifact]
    cached: bool


def open_store(
    config: config_lib.PipelineConfig,
) -> metadata_store.MetadataStore:
    """Opens the metadata of a pipeline.

    Raises:
        ConfigError: the password of the server is missing.
        DataError: the pipeline has not run, or the file is damaged.
    """
    if not has_run(config):
        raise DataError(
            "NO_RUNS",
            f"{config.metadata_path} does not exist: the pipeline has not run.",
            "run it with `muse pipeline run`.",
        )
    if not config.metadata:
        _check_database(config.metadata_path)
    return metadata_store.MetadataStore(connection(config))


def has_run(config: config_lib.PipelineConfig) -> bool:
    """Returns whether metadata can be there; a server is not asked."""
    return bool(config.metadata) or config.metadata_path.exists()


def connection(config: config_lib.PipelineConfig) -> mlmd.ConnectionConfig:
    """Returns the connection to the metadata, with the password of a server.

    Raises:
        ConfigError: the password of the server is missing.
    """
    found = mlmd.ConnectionConfig()
    if not config.metadata:
        found.sqlite.filename_uri = str(config.metadata_path)
        found.sqlite.connection_mode = (
            mlmd.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
        )
        return found
    if PASSWORD not in os.environ:
        raise ConfigError(
            f"metadata: expected the password of {config.metadata} in the "
            f"environment variable {PASSWORD}, which is not set"
        )
    server = urllib.parse.urlsplit(config.metadata)
    found.mysql.host = server.hostname or ""
    found.mysql.port = server.port or 3306
    found.mysql.database = server.path[1:]
    found.mysql.user = server.username or ""
    found.mysql.password = os.environ[PASSWORD]
    return found


def executions(
    store: metadata_store.MetadataStore,
    config: config_lib.PipelineConfig,
    run_id: str = "",
) -> list[mlmd.Execution]:
    """Returns the executions of a pipeline or of one run, in order.

    A server may hold other pipelines, too; a file holds one.
    """
    if not config.metadata and not run_id:
        return store.get_executions()
    context = store.get_context_by_type_and_name(
        *(("pipeline_run", run_id) if run_id else ("pipeline", config.name))
    )
    if context is None:
        return []
    found = store.get_executions_by_context(context.id)
    return sorted(found, key=lambda execution: execution.id)


def _check_database(path: pathlib.Path) -> None:
    # The error of ML Metadata would be a failed SQL statement.
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        ) as database:
            (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        found = str(error)
    if found != "ok":
        raise DataError(
            "DAMAGED_METADATA",
            f"{path} is damaged: {' '.join(found.split())}.",
            "restore a copy of it, or remove it; then every component runs "
            "again.",
        )


def last_executions(config: config_lib.PipelineConfig) -> list[dict[str, str]]:
    """Returns the last execution of each component, in order of execution.

    Each has ``component``, ``state``, ``finished`` (UTC) and ``output`` (the
    folder of its first output).
    """
    store = open_store(config)
    rows: dict[str, dict[str, str]] = {}
    for execution in executions(store, config):
        component = component_of(store, execution)
        outputs = _artifacts(store, execution.id)
        rows.pop(component, None)
        rows[component] = {
            "component": component,
            "state": mlmd.Execution.State.Name(execution.last_known_state),
            "finished": _time(execution),
            "output": outputs[0][1].uri if outputs else "",
        }
    return list(rows.values())


def latest_output(
    config: config_lib.PipelineConfig, component: str, key: str
) -> pathlib.Path:
    """Returns the folder of a component's newest finished output.

    Raises:
        DataError: the component has not finished yet.
    """
    store = open_store(config)
    for execution in reversed(executions(store, config)):
        if (
            execution.last_known_state in DONE
            and component_of(store, execution) == component
        ):
            outputs = dict(_artifacts(store, execution.id))
            if key in outputs:
                return pathlib.Path(outputs[key].uri)
            break
    raise DataError(
        "NOT_RUN",
        f"{component} of pipeline {config.name} has not finished.",
        "run the pipeline with `muse pipeline run`.",
    )


def forget_lost_pushes(config: config_lib.PipelineConfig) -> None:
    """Makes the next run push models whose pushed version is not served.

    TFX takes an output from the cache as long as the artifact exists; it does
    not check the folder to which the model was copied.
    """
    if not has_run(config):
        return
    store = open_store(config)
    found = [item.id for item in executions(store, config)]
    events = store.get_events_by_execution_ids(found) if found else []
    for artifact in store.get_artifacts_by_id(
        sorted({event.artifact_id for event in events})
    ):
        place = artifact.custom_properties["pushed_destination"].string_value
        if place and not is_served(pathlib.Path(place)):
            shutil.rmtree(artifact.uri, ignore_errors=True)


def is_served(version: pathlib.Path) -> bool:
    """Returns whether a version folder exists and is the newest one."""
    return newest_version(version.parent) == version


def model_runs(config: config_lib.PipelineConfig) -> dict[str, ModelRun]:
    """Returns the newest finished training by model type, oldest first."""
    found: dict[str, ModelRun] = {}
    for run in _runs(config, "RankerTrainer"):
        found.pop(run.model_type, None)
        found[run.model_type] = run
    return found


def matching_run(config: config_lib.PipelineConfig) -> ModelRun | None:
    """Returns the newest retrieval model; None if there is none."""
    runs = list(_runs(config, "MatchingGen"))
    return runs[-1] if runs else None


def _runs(config: config_lib.PipelineConfig, maker: str) -> Iterator[ModelRun]:
    """Yields the models of a component with later results, oldest first."""
    store = open_store(config)
    made: dict[int, Finished] = {}
    # Later artifacts by model and by type of artifact.
    after: dict[int, dict[str, tuple[mlmd.Artifact, bool]]] = {}
    for execution in executions(store, config):
        if execution.last_known_state not in DONE:
            continue
        finished = _finished(store, execution)
        models = [
            artifact.id
            for key, artifact in _artifacts(store, execution.id, inputs=True)
            if key == "model"
        ]
        if component_of(store, execution) == maker:
            models = [finished.outputs["model"].id]
            # If the cache returned a model again, the last one is used.
            made.pop(models[0], None)
            made[models[0]] = finished
        for model in models:
            after.setdefault(model, {}).update(
                (artifact.type, (artifact, finished.cached))
                for artifact in finished.outputs.values()
            )
    for model, finished in made.items():
        yield _run(finished, after[model])


def _run(
    made: Finished, after: dict[str, tuple[mlmd.Artifact, bool]]
) -> ModelRun:
    def artifact(kind: str) -> mlmd.Artifact | None:
        return after[kind][0] if kind in after else None

    settings = _as_object(
        made.properties.get("custom_config", made.properties.get("settings"))
    )
    evaluation = artifact("ModelEvaluation")
    blessing = artifact("InfraBlessing")
    pushed = artifact("PushedModel")
    place = pushed and pushed.custom_properties["pushed_destination"]
    records = made.outputs.get("model_run") or made.outputs["evaluation"]
    return ModelRun(
        model_type=settings.get("model", {}).get("type", MODEL_NAME),
        settings=settings,
        model_dir=pathlib.Path(made.outputs["model"].uri),
        run_dir=pathlib.Path(records.uri),
        evaluation_dir=_folder(evaluation),
        evaluation=evaluation
        and _as_object(evaluation.custom_properties["result"].string_value),
        infra_blessing_dir=_folder(blessing),
        infra_blessed=bool(
            blessing and blessing.custom_properties["blessed"].int_value
        ),
        pushed_to=(
            pathlib.Path(place.string_value)
            if place and place.string_value
            else None
        ),
        pushed_before=pushed is not None and after["PushedModel"][1],
    )


def origins(
    config: config_lib.PipelineConfig, folder: pathlib.Path
) -> list[dict[str, Any]]:
    """Returns all executions that led to an artifact, in order.

    Each has ``component``, ``execution`` (its id), ``finished`` (UTC),
    ``code`` and ``data`` (fingerprints or ""), ``place`` (folder of the raw
    data or "") and ``parameters`` (all other parameters).
    """
    store = open_store(config)
    waiting = [item.id for item in store.get_artifacts_by_uri(str(folder))]
    found: dict[int, mlmd.Execution] = {}
    while waiting:
        made_by = [
            event.execution_id
            for event in store.get_events_by_artifact_ids([waiting.pop()])
            if event.type == mlmd.Event.OUTPUT
        ]
        # The first execution made it; later ones found it in the cache.
        first = min(made_by, default=None)
        if first is None or first in found:
            continue
        (found[first],) = store.get_executions_by_id([first])
        inputs = _artifacts(store, first, inputs=True)
        waiting += [artifact.id for _, artifact in inputs]
    return [_origin(store, found[number]) for number in sorted(found)]


def _origin(
    store: metadata_store.MetadataStore, execution: mlmd.Execution
) -> dict[str, Any]:
    properties = _properties(execution)
    for name in _INTERNAL:
        properties.pop(name, None)
    settings = _as_object(properties.pop("custom_config", None))
    properties |= settings
    return {
        "component": component_of(store, execution),
        "execution": execution.id,
        "finished": _time(execution),
        "code": properties.pop("code_fingerprint", ""),
        "data": properties.pop("raw_fingerprint", ""),
        "place": properties.pop("raw_dir", ""),
        "parameters": properties,
    }


def _finished(
    store: metadata_store.MetadataStore, execution: mlmd.Execution
) -> Finished:
    return Finished(
        properties=_properties(execution),
        outputs=dict(_artifacts(store, execution.id)),
        cached=execution.last_known_state == mlmd.Execution.CACHED,
    )


def _properties(execution: mlmd.Execution) -> dict[str, Any]:
    return {
        name: getattr(value, kind)
        for name, value in execution.custom_properties.items()
        if (kind := value.WhichOneof("value"))
    }


def _folder(artifact: mlmd.Artifact | None) -> pathlib.Path | None:
    return pathlib.Path(artifact.uri) if artifact else None


def _as_object(text: Any) -> dict[str, Any]:
    found = json.loads(text) if isinstance(text, str) and text else None
    return found if isinstance(found, dict) else {}


def _time(execution: mlmd.Execution) -> str:
    return datetime.datetime.fromtimestamp(
        execution.last_update_time_since_epoch / 1e3, datetime.timezone.utc
    ).strftime("%Y-%m-%d %H:%M:%S")


def component_of(
    store: metadata_store.MetadataStore, execution: mlmd.Execution
) -> str:
    """Returns the id of the component that an execution belongs to."""
    for context in store.get_contexts_by_execution(execution.id):
        if context.type == "node":
            return context.name.rpartition(".")[2]
    return execution.type


def _artifacts(
    store: metadata_store.MetadataStore,
    execution_id: int,
    inputs: bool = False,
) -> list[tuple[str, mlmd.Artifact]]:
    wanted = mlmd.Event.INPUT if inputs else mlmd.Event.OUTPUT
    keys = {
        event.artifact_id: event.path.steps[0].key
        for event in store.get_events_by_execution_ids([execution_id])
        if event.type == wanted
    }
    return [
        (keys[artifact.id], artifact)
        for artifact in store.get_artifacts_by_id(list(keys))
    ]
