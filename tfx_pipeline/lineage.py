"""What ML Metadata knows about the runs of a pipeline."""

from __future__ import annotations

import datetime
import pathlib


from ml_metadata.metadata_store import metadata_store
from ml_metadata.proto import metadata_store_pb2 as mlmd

from tfx_pipeline import config as config_lib
from tfx_pipeline.data.errors import DataError

__all__ = ["last_executions", "latest_output", "open_store"]

_DONE = (mlmd.Execution.COMPLETE, mlmd.Execution.CACHED)


def open_store(
    config: config_lib.PipelineConfig,
) -> metadata_store.MetadataStore:
    """Opens the metadata of a pipeline.

    Raises:
        DataError: the pipeline has not run.
    """
    if not config.metadata_path.exists():
        raise DataError(
            "NO_RUNS",
            f"{config.metadata_path} does not exist: the pipeline has not "
            "run.",
            "run it with `muse pipeline run`.",
        )
    connection = mlmd.ConnectionConfig()
    connection.sqlite.filename_uri = str(config.metadata_path)
    connection.sqlite.connection_mode = (
        mlmd.SqliteMetadataSourceConfig.READWRITE
    )
    return metadata_store.MetadataStore(connection)


def last_executions(config: config_lib.PipelineConfig) -> list[dict[str, str]]:
    """Returns the last execution of each component, in order of running.

    Each has ``component``, ``state``, ``finished`` (UTC) and ``output`` (the
    folder of its first output).
    """
    store = open_store(config)
    rows: dict[str, dict[str, str]] = {}
    for execution in store.get_executions():
        component = _component(store, execution)
        outputs = _outputs(store, execution.id)
        finished = datetime.datetime.fromtimestamp(
            execution.last_update_time_since_epoch / 1e3, datetime.timezone.utc
        )
        rows.pop(component, None)
        rows[component] = {
            "component": component,
            "state": mlmd.Execution.State.Name(execution.last_known_state),
            "finished": finished.strftime("%Y-%m-%d %H:%M:%S"),
            "output": next(iter(outputs.values()), ""),
        }
    return list(rows.values())


def latest_output(
    config: config_lib.PipelineConfig, component: str, key: str
) -> pathlib.Path:
    """Returns the folder of a component's newest finished output.

    Args:
        config: the pipeline.
        component: component id, e.g. ``RankerTrainer``.
        key: name of the output, e.g. ``model``.

    Raises:
        DataError: the component has not finished yet.
    """
    store = open_store(config)
    for execution in sorted(
        store.get_executions(), key=lambda item: -item.id
    ):
        if execution.last_known_state not in _DONE:
            continue
        if _component(store, execution) == component:
            outputs = _outputs(store, execution.id)
            if key in outputs:
                return pathlib.Path(outputs[key])
    raise DataError(
        "NOT_RUN",
        f"{component} of pipeline {config.name} has not finished.",
        "run the pipeline with `muse pipeline run`.",
    )


def _component(
    store: metadata_store.MetadataStore, execution: mlmd.Execution
) -> str:
    for context in store.get_contexts_by_execution(execution.id):
        if context.type == "node":
            return context.name.rpartition(".")[2]
    return execution.type


def _outputs(
    store: metadata_store.MetadataStore, execution_id: int
) -> dict[str, str]:
    events = store.get_events_by_execution_ids([execution_id])
    keys: dict[int, str] = {}
    for event in events:
        if event.type == mlmd.Event.OUTPUT:
            keys[event.artifact_id] = event.path.steps[0].key
    artifacts = store.get_artifacts_by_id(list(keys))
    return {keys[artifact.id]: artifact.uri for artifact in artifacts}


