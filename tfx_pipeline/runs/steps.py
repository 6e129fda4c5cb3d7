"""Runs of the pipeline in steps, which an orchestrator starts one by one.

`prepare` begins a run: it compiles the pipeline with the fingerprints that the
data have then, and writes it with the settings to `run_dir`. Each step reads
both there, so that all steps of a run agree. Steps share ``output_dir`` and the
metadata, and nothing else.
"""

from __future__ import annotations

import functools
import logging
import pathlib
import re
import shutil
from typing import NamedTuple

from google.protobuf import json_format
from ml_metadata.metadata_store import metadata_store

from schemas.settings_file import ConfigError
from serving.files import write_text
from tfx_pipeline import beam_internals, tfx_internals
from tfx_pipeline import config as config_lib
from tfx_pipeline.runs import lineage
from tfx_pipeline.runs.run_log import Report, watched

PREPARE = "prepare"
_RUN_ID = re.compile(r"[\w.~:+-]+")


class Step(NamedTuple):
    """A component, with the steps that it needs to be finished.

    ``nodes`` ends with the component. Nodes before it have no executor, only
    an entry in the metadata, which is no work for a process of its own.
    """

    name: str
    nodes: tuple[str, ...]
    after: tuple[str, ...]


def compile_steps(config: config_lib.PipelineConfig) -> list[Step]:
    """Returns the steps of a configuration.

    Of the raw tables it reads the declaration only.

    Raises:
        ConfigError: a slice or a label is not declared.
    """
    from muse_tools.datasets import raw_tables, search_tables
    from tfx_pipeline import pipeline

    graph = pipeline.create_pipeline(
        config,
        declared=raw_tables.RawTables.open(config.data.raw_dir).declared,
        schema_path="",
        schema_fingerprint="",
        raw_fingerprint="",
        search_fingerprints=dict.fromkeys(search_tables.TABLES, ""),
    )
    return steps_of(tfx_internals.compiler.Compiler().compile(graph))


def run_dir(root: pathlib.Path, run_id: str) -> pathlib.Path:
    """Returns the folder of a run in the output directory.

    Raises:
        ConfigError: the id has other characters than an orchestrator's.
    """
    if not _RUN_ID.fullmatch(run_id) or set(run_id) <= {"."}:
        raise ConfigError(
            "run id: expected letters, digits and . _ ~ : + - only. "
            f"Received: {run_id!r}"
        )
    return root / "runs" / run_id


def prepare(
    config: config_lib.PipelineConfig, run_id: str, report: Report
) -> None:
    """Begins a run; once more for the same run does no harm.

    Raises:
        ConfigError: the id is none, or the password of the metadata is missing.
        DataError: the raw tables cannot be found.
    """
    from tfx_pipeline.runs import runner

    folder = run_dir(config.root, run_id)
    lineage.connection(config)
    graph = tfx_internals.compiler.Compiler().compile(
        runner.compile_pipeline(config, report)
    )
    tfx_internals.set_run_id(graph, run_id)
    lineage.forget_lost_pushes(config)
    write_text(folder / "settings.json", config.model_dump_json())
    write_text(folder / "pipeline.json", json_format.MessageToJson(graph))
    report(f"run {run_id} is prepared in {folder}")


def run_step(
    root: pathlib.Path, run_id: str, name: str, report: Report
) -> None:
    """Runs the step of a component; ``root`` is the output directory.

    A step that has finished in this run is not repeated. What an attempt that
    was killed has left behind is removed first.

    Raises:
        ComponentFailed: the component failed.
        ConfigError: the run is not prepared, or has no such step.
    """
    folder = run_dir(root, run_id)
    try:
        settings = (folder / "settings.json").read_text(encoding="utf-8")
        text = (folder / "pipeline.json").read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(
            f"run id: expected a run that `muse pipeline {PREPARE}` has "
            f"written to {folder}. Received: {run_id!r}"
        ) from error
    config = config_lib.PipelineConfig.model_validate_json(settings)
    graph = json_format.Parse(text, tfx_internals.pipeline_pb2.Pipeline())
    steps = {step.name: step for step in steps_of(graph)}
    if name not in steps:
        raise ConfigError(
            f"step: expected one of {', '.join(steps)}. Received: {name!r}"
        )
    beam_internals.spare_local_runs()
    tfx_internals.send_no_package_to_workers()
    connection = lineage.connection(config)
    with watched(folder / f"{name}.log", report) as watch:
        watch.component = name
        store = metadata_store.MetadataStore(connection)
        log = logging.getLogger(__name__)
        for node in _nodes(graph):
            node_id = node.node_info.id
            if node_id not in steps[name].nodes:
                continue
            state = functools.partial(_state, store, config, run_id, node_id)
            if state() in lineage.DONE:
                report(f"{node_id} has finished in this run")
                continue
            log.info("Component %s is running.", node_id)
            tfx_internals.launch(graph, node, connection)
            # TFX takes a missing input for a node that is not to be run.
            if state() not in lineage.DONE:
                raise RuntimeError(
                    f"{node_id} did not run: an input is missing"
                )
            log.info("Component %s is finished.", node_id)


def _state(
    store: metadata_store.MetadataStore,
    config: config_lib.PipelineConfig,
    run_id: str,
    node_id: str,
) -> int | None:
    """Returns the state of a node; removes outputs of one that has not ended.

    TFX uses the execution of a killed attempt again, with its folders.
    """
    for execution in lineage.executions(store, config, run_id):
        if lineage.component_of(store, execution) != node_id:
            continue
        if execution.last_known_state not in lineage.DONE:
            for left in [
                *config.artifacts_dir.glob(f"{node_id}/*/{execution.id}"),
                *config.artifacts_dir.glob(
                    f"{node_id}/.system/*/{execution.id}"
                ),
            ]:
                shutil.rmtree(left)
        return execution.last_known_state
    return None


def steps_of(graph: tfx_internals.pipeline_pb2.Pipeline) -> list[Step]:
    """Returns the steps of a compiled pipeline, in a possible order.

    A node without an executor is part of the first step that uses it.
    """
    executors = tfx_internals.executors_of(graph)
    step_of: dict[str, str] = {}
    members: dict[str, list[str]] = {}
    for node in _nodes(graph):
        name = node.node_info.id
        if name not in executors:
            continue
        members[name] = [
            used
            for used in node.upstream_nodes
            if used not in executors and used not in step_of
        ] + [name]
        step_of |= dict.fromkeys(members[name], name)
    upstream = {
        node.node_info.id: node.upstream_nodes for node in _nodes(graph)
    }
    return [
        Step(
            name,
            tuple(nodes),
            tuple(
                sorted(
                    {step_of[used] for node in nodes for used in upstream[node]}
                    - {name}
                )
            ),
        )
        for name, nodes in members.items()
    ]


def _nodes(
    graph: tfx_internals.pipeline_pb2.Pipeline,
) -> list[tfx_internals.pipeline_pb2.PipelineNode]:
    return [node.pipeline_node for node in graph.nodes]
