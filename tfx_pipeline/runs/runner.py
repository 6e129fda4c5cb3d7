"""Runs the pipeline on this machine and reports progress."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import pathlib
import re
import time
from collections.abc import Callable, Iterator, Sequence

from absl import logging as absl_logging
from tfx import v1 as tfx

from muse_tools.datasets import fingerprints, raw_tables, search_tables
from schemas.settings_file import ConfigError
from serving.files import locked, write_text
from tfx_pipeline import beam_internals, pipeline, progress, tfx_internals
from tfx_pipeline import config as config_lib
from tfx_pipeline.examples_schema import request_schema
from tfx_pipeline.runs import code_keys, lineage

Report = Callable[[str], None]

_RUNNING = re.compile(r"Component (\S+) is running\.")
_FINISHED = re.compile(r"Component (\S+) is finished\.")
_CACHED = re.compile(r"A cached execution .* is used\.")


@dataclasses.dataclass
class ComponentFailed(RuntimeError):
    """A component failed.

    Attributes:
        component: id of the component, e.g. ``Trainer``.
        reason: the error in one line.
        log_path: path of the complete log.
    """

    component: str
    reason: str
    log_path: pathlib.Path

    def __str__(self) -> str:
        return f"{self.component} failed: {self.reason} Log: {self.log_path}"


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
    tfx_internals.send_no_package_to_local_workers()
    graph = compile_pipeline(config, report)
    options = (
        tfx_internals.RunOptions(to_nodes=list(to_nodes)) if to_nodes else None
    )
    lineage.forget_lost_pushes(config)
    with _watched(config.log_path, report) as watch:
        try:
            tfx.orchestration.LocalDagRunner().run(graph, run_options=options)
        except Exception as error:
            logging.getLogger(__name__).exception("Run failed")
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ComponentFailed(
                watch.component, reason, config.log_path
            ) from error


class _Watch(logging.Handler):
    """Converts the runner's log to progress."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self._report = report
        self._start = 0.0
        self._cached = False
        self.component = "pipeline"

    def emit(self, record: logging.LogRecord) -> None:
        """Reports the start and the end of components."""
        message = record.getMessage()
        if match := _RUNNING.match(message):
            self.component = match.group(1)
            self._start = time.monotonic()
            self._cached = False
            self._report(f"{self.component} …")
        elif _CACHED.match(message):
            self._cached = True
        elif match := _FINISHED.match(message):
            seconds = time.monotonic() - self._start
            how = "from the cache" if self._cached else "done"
            self._report(f"{match.group(1)} {how} in {seconds:.1f} s")


@contextlib.contextmanager
def _watched(log_path: pathlib.Path, report: Report) -> Iterator[_Watch]:
    """Writes all log records to a file and progress to ``report``."""
    log_path.parent.mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(log_path, encoding="utf-8")
    file.setFormatter(
        logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    watch = _Watch(report)
    lines = logging.Handler()
    lines.emit = lambda record: report(record.getMessage())  # type: ignore[method-assign]
    root, own = logging.getLogger(), logging.getLogger(progress.LOGGER_NAME)
    before = (root.handlers[:], root.level, own.propagate, own.level)
    root.handlers = [file, watch]
    root.setLevel(logging.INFO)
    own.setLevel(logging.INFO)
    own.addHandler(lines)
    verbosity = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.INFO)
    # These have their own handlers, which write to the console.
    noisy = [logging.getLogger(name) for name in ("absl", "tensorflow")]
    noisy_before = [(log.handlers[:], log.propagate) for log in noisy]
    for log in noisy:
        log.handlers, log.propagate = [], True
    try:
        yield watch
    finally:
        root.handlers, own.propagate = before[0], before[2]
        root.setLevel(before[1])
        own.setLevel(before[3])
        own.removeHandler(lines)
        for log, (handlers, propagate) in zip(noisy, noisy_before, strict=True):
            log.handlers, log.propagate = handlers, propagate
        absl_logging.set_verbosity(verbosity)
        file.close()
