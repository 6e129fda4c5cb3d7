"""Runs the pipeline on this machine and reports progress."""

from __future__ import annotations

from collections.abc import Sequence

from tfx import v1 as tfx

from muse_tools.datasets import fingerprints, raw_tables, search_tables
from schemas.settings_file import ConfigError
from serving.files import locked, write_text
from tfx_pipeline import beam_internals, pipeline, tfx_internals
from tfx_pipeline import config as config_lib
from tfx_pipeline.examples_schema import request_schema
from tfx_pipeline.runs import code_keys, lineage
from tfx_pipeline.runs.run_log import Report, watched


def compile_pipeline(
    config: config_lib.PipelineConfig, report: Report = lambda line: None
) -> tfx.dsl.Pipeline:
    """Builds the pipeline of a configuration, with fingerprints of its data.

    Raises:
        DataError: the raw tables cannot be found.
    """
    raw_dir = config.data.raw_dir
    memory = config.root / "raw_digests.json" if config.root.is_dir() else None
    digests = fingerprints.FileDigests(memory, report)
    raw = fingerprints.raw_fingerprint(raw_dir, digests)
    search = (
        None
        if config.item_embeddings == "imported"
        else fingerprints.search_fingerprints(raw_dir, digests)
    )
    digests.save()
    if search:
        for table in search_tables.TABLES:
            search[table] += code_keys.encoder_digest(config.scl.text_encoder)
    declared = raw_tables.RawTables.open(raw_dir).declared
    path = config.root / "request_examples.pbtxt"
    write_text(path, request_schema(declared))
    graph = pipeline.create_pipeline(
        config,
        declared=declared,
        schema_path=str(path),
        schema_fingerprint=fingerprints.file_fingerprint(path),
        raw_fingerprint=raw + declared.digest(),
        search_fingerprints=search,
    )
    code_keys.mark(graph.components)
    return graph


def run(
    config: config_lib.PipelineConfig,
    report: Report,
    to_nodes: Sequence[str] = (),
) -> None:
    """Runs the pipeline with the local runner.

    Unchanged components come from the cache, so that a run after a failure or a
    crash continues where the last one stopped. With ``to_nodes``, only these
    components and those before them run.

    Raises:
        ComponentFailed: a component failed.
        ConfigError: another run writes to the same folder.
        DataError: the raw tables cannot be found.
    """
    with locked(config.root / ".lock", wait=False) as free:
        if not free:
            raise ConfigError(
                "output_dir: expected a folder that no other run writes to. "
                f"Received: {config.root}; wait for that run, or name another "
                "folder"
            )
        _run(config, report, to_nodes)


def _run(
    config: config_lib.PipelineConfig, report: Report, to_nodes: Sequence[str]
) -> None:
    beam_internals.spare_local_runs()
    tfx_internals.send_no_package_to_workers()
    graph = compile_pipeline(config, report)
    options = (
        tfx_internals.RunOptions(to_nodes=list(to_nodes)) if to_nodes else None
    )
    lineage.forget_lost_pushes(config)
    graph.metadata_connection_config = lineage.connection(config)
    with watched(config.log_path, report):
        tfx.orchestration.LocalDagRunner().run(graph, run_options=options)
