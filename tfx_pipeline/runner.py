"""Runs the pipeline on this machine and says what happens."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import pathlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from absl import logging as absl_logging
from tfx import v1 as tfx

import schemas
from tfx_pipeline import config as config_lib
from tfx_pipeline import pipeline, progress
from tfx_pipeline.data import raw_tables, search_tables
from tfx_pipeline.tfx_internals import RunOptions

__all__ = [
    "ComponentFailed",
    "code_fingerprints",
    "compile_pipeline",
    "raw_fingerprint",
    "run",
    "search_fingerprints",
]

Report = Callable[[str], None]

_PROJECT = pathlib.Path(__file__).resolve().parent.parent
# Files of each stage whose change must not meet an old output.
_STAGES = {
    "join": (
        "tfx_pipeline/components/request_example_gen",
        "tfx_pipeline/transforms",
        "tfx_pipeline/data/raw_tables.py",
        "tfx_pipeline/data/validation.py",
        "tfx_pipeline/features.py",
    ),
    "items": (
        "tfx_pipeline/components/item_table_gen",
        "tfx_pipeline/data/raw_tables.py",
        "tfx_pipeline/data/validation.py",
        "muse_keras/tables",
    ),
    "content": (
        "tfx_pipeline/components/item_content_gen",
        "tfx_pipeline/components/search_example_gen",
        "tfx_pipeline/components/rejected_rows.py",
        "tfx_pipeline/transforms/arrow_batches.py",
        "tfx_pipeline/transforms/exchange.py",
        "tfx_pipeline/transforms/search_join.py",
        "tfx_pipeline/transforms/steps.py",
        "tfx_pipeline/transforms/tfrecords.py",
        "tfx_pipeline/data/arrow_lists.py",
        "tfx_pipeline/data/item_content.py",
        "tfx_pipeline/data/raw_tables.py",
        "tfx_pipeline/data/search_tables.py",
        "tfx_pipeline/data/search_validation.py",
        "tfx_pipeline/data/text_features.py",
        "tfx_pipeline/data/validation.py",
    ),
    "scl": (
        "tfx_pipeline/components/scl_trainer",
        "tfx_pipeline/scl",
        "tfx_pipeline/checkpoints.py",
        "tfx_pipeline/records.py",
        "muse_keras/callbacks",
        "muse_keras/layers/memory_bank.py",
        "muse_keras/layers/residual_mlp.py",
        "muse_keras/layers/scl_tower.py",
        "muse_keras/losses/cosine_triplet_loss.py",
        "muse_keras/losses/info_nce.py",
        "muse_keras/metrics/embedding_spread.py",
        "muse_keras/models/scl.py",
    ),
    "embedder": (
        "tfx_pipeline/components/item_embedder",
        "tfx_pipeline/components/text_embedder",
        "tfx_pipeline/data/item_text.py",
        "tfx_pipeline/scl/embedding.py",
        "tfx_pipeline/scl/export.py",
    ),
    "transform": (
        "tfx_pipeline/preprocessing.py",
        "tfx_pipeline/features.py",
        "muse_keras/tensorflow/request_features.py",
    ),
    "trainer": (
        "tfx_pipeline/trainer.py",
        "tfx_pipeline/checkpoints.py",
        "tfx_pipeline/input_fn.py",
        "tfx_pipeline/records.py",
        "tfx_pipeline/features.py",
        "muse_keras",
        "serving/export",
    ),
    "evaluator": ("tfx_pipeline/evaluation", "muse_keras/metrics"),
    "matching": (
        "tfx_pipeline/components/matching_gen",
        "tfx_pipeline/evaluation/bootstrap.py",
        "tfx_pipeline/features.py",
        "tfx_pipeline/input_fn.py",
        "tfx_pipeline/matching",
        "tfx_pipeline/records.py",
        "muse_keras/tables/item_table.py",
        "muse_keras/tensorflow/request_features.py",
        "serving/export/warmup.py",
    ),
    "serving": ("serving/server", "tfx_pipeline/components/serving_validator"),
}
_RUNNING = re.compile(r"Component (\S+) is running\.")
_FINISHED = re.compile(r"Component (\S+) is finished\.")
_CACHED = re.compile(r"A cached execution .* is used\.")


@dataclasses.dataclass
class ComponentFailed(RuntimeError):
    """A component failed.

    Attributes:
        component: its id, e.g. ``Trainer``.
        reason: the error in one line.
        log_path: the complete log.
    """

    component: str
    reason: str
    log_path: pathlib.Path

    def __str__(self) -> str:
        """Returns the error in one line."""
        return f"{self.component} failed: {self.reason} Log: {self.log_path}"


def compile_pipeline(config: config_lib.PipelineConfig) -> tfx.dsl.Pipeline:
    """Builds the pipeline of a configuration for the data as it is now."""
    return pipeline.create_pipeline(
        config,
        schema_path=str(schema_path()),
        raw_fingerprint=raw_fingerprint(config.data.raw_dir),
        code_fingerprints=code_fingerprints(),
        search_fingerprints=(
            None
            if config.item_embeddings == "imported"
            else search_fingerprints(config.data.raw_dir)
        ),
    )


def schema_path() -> pathlib.Path:
    """Returns the schema of request-grouped Examples."""
    return pathlib.Path(schemas.__file__).parent / "request_examples.pbtxt"


def raw_fingerprint(raw_dir: str) -> str:
    """Returns a digest of the names, sizes and times of the raw tables.

    Raises:
        DataError: there are no raw tables.
    """
    tables = raw_tables.RawTables.open(raw_dir)
    return _fingerprint({n: t.paths for n, t in tables.tables.items()})


def search_fingerprints(raw_dir: str) -> dict[str, str]:
    """Returns a digest of each table that item embeddings are made from.

    One per table: new samples or searches of a day do not make the content of
    the items new, and samples do not make the embeddings new.

    Raises:
        DataError: there are no raw tables.
    """
    items = raw_tables.RawTables.open(raw_dir)[raw_tables.ITEM_FEATURES]
    tables = {
        **dict.fromkeys(search_tables.TABLES, ()),
        **search_tables.find_tables(raw_dir),
        raw_tables.ITEM_FEATURES: items.paths,
    }
    return {name: _fingerprint({name: paths}) for name, paths in tables.items()}


def _fingerprint(tables: Mapping[str, Iterable[pathlib.Path]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tables):
        for path in tables[name]:
            stat = path.stat()
            state = (name, path.name, stat.st_size, stat.st_mtime_ns)
            digest.update(repr(state).encode())
    return digest.hexdigest()[:16]


def code_fingerprints() -> dict[str, str]:
    """Returns a digest of the source files of each stage."""
    fingerprints = {}
    for stage, places in _STAGES.items():
        digest = hashlib.sha256()
        for place in places:
            path = _PROJECT / place
            files = [path] if path.is_file() else sorted(path.rglob("*.py"))
            for file in files:
                digest.update(file.read_bytes())
        fingerprints[stage] = digest.hexdigest()[:16]
    return fingerprints


def run(
    config: config_lib.PipelineConfig,
    report: Report,
    to_nodes: Sequence[str] = (),
) -> None:
    """Runs the pipeline with the local runner.

    Unchanged components are served from the cache, so a run after a failure
    or a crash continues where the last one stopped.

    Args:
        config: the typed configuration.
        report: receives one line per event, for a person.
        to_nodes: ids of the components whose outputs are wanted; they and
            what they need run. Empty: all.

    Raises:
        ComponentFailed: a component failed.
        DataError: the raw tables cannot be found.
    """
    graph = compile_pipeline(config)
    options = RunOptions(to_nodes=list(to_nodes)) if to_nodes else None
    config.root.mkdir(parents=True, exist_ok=True)
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
    """Turns the runner's log into progress."""

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
    """Sends every log record to the file and progress to the person."""
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
    # These write to the console by handlers of their own.
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
