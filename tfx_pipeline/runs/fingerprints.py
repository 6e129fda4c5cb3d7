"""What the cache of the pipeline has to notice: other data, other code."""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import importlib.util
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterable

from muse_tools.datasets import raw_tables, search_tables
from serving.files import write_json
from tfx_pipeline.runs.source_files import source_files

__all__ = [
    "STAGES",
    "FileDigests",
    "code_fingerprints",
    "file_fingerprint",
    "file_state",
    "module_fingerprint",
    "raw_fingerprint",
    "search_fingerprints",
]

_PROJECT = pathlib.Path(__file__).resolve().parents[2]
_COMPONENTS = "tfx_pipeline.components"
STAGES = {
    "join": (f"{_COMPONENTS}.request_example_gen.executor",),
    "items": (f"{_COMPONENTS}.item_table_gen.executor",),
    "content": (
        f"{_COMPONENTS}.item_content_gen.executor",
        f"{_COMPONENTS}.search_example_gen.executor",
    ),
    "scl": (
        f"{_COMPONENTS}.scl_trainer.executor",
        "tfx_pipeline.scl.trainer",
    ),
    "embedder": (
        f"{_COMPONENTS}.item_embedder.executor",
        f"{_COMPONENTS}.text_embedder.executor",
    ),
    "validation": (f"{_COMPONENTS}.strict_example_validator",),
    "transform": ("tfx_pipeline.preprocessing",),
    "trainer": (
        f"{_COMPONENTS}.ranker_trainer.executor",
        "tfx_pipeline.training.trainer",
    ),
    "evaluator": (
        f"{_COMPONENTS}.recorded_evaluator",
        "tfx_pipeline.evaluation.extractors",
        "tfx_pipeline.evaluation.ranking_metrics",
    ),
    "matching": (f"{_COMPONENTS}.matching_gen.executor",),
    "serving": (f"{_COMPONENTS}.serving_validator.executor",),
}
"""The modules that do the work of each stage."""
# Settings are in the keys themselves, and progress is only said.
_NO_WORK = ("tfx_pipeline.config", "tfx_pipeline.progress")
_FRESH_NS = 2_000_000_000
_BLOCK_BYTES = 4 << 20
_WORTH_SAYING_BYTES = 1 << 30


@functools.cache
def code_fingerprints() -> dict[str, str]:
    """Returns a digest of the source files that each stage needs."""
    return {stage: _of_modules(modules) for stage, modules in STAGES.items()}


def _of_modules(modules: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for name, path in source_files(_PROJECT, modules).items():
        if name in _NO_WORK:
            continue
        text = path.read_bytes()
        digest.update(name.encode() + b"\0" + text)
        # A table that a module names lies beside it.
        for table in sorted(path.parent.glob("*.jsonl")):
            if table.name.encode() in text:
                digest.update(table.read_bytes())
    return digest.hexdigest()[:16]


def module_fingerprint(module: str) -> str:
    """Returns a digest of the file of a module that is not ours.

    Raises:
        ModuleNotFoundError: there is no such module.
    """
    spec = importlib.util.find_spec(module)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)
    path = pathlib.Path(spec.origin or "")
    return file_fingerprint(path) if path.is_file() else ""


def file_fingerprint(path: pathlib.Path) -> str:
    """Returns a digest of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()[:16]


class FileDigests:
    """Digests of the content of files, each read once.

    A file is read again when its size, its times or its inode are others.
    Writing sets the time of change (``ctime``), which no program can set
    back, so other content of the same size and modification time is noticed,
    too.

    Args:
        memory: JSON file that keeps the digests between runs, or None.
        report: receives a line before much is read.
    """

    def __init__(
        self,
        memory: pathlib.Path | None = None,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._memory = memory
        self._report = report
        self._known: dict[str, list] = {}
        if memory and memory.is_file():
            self._known = json.loads(memory.read_text(encoding="utf-8"))

    def of(self, paths: Iterable[pathlib.Path]) -> list[str]:
        """Returns the digest of each file."""
        states = {str(path.absolute()): file_state(path) for path in paths}
        new = [
            name
            for name, state in states.items()
            if self._known.get(name, [None])[0] != state
        ]
        size = sum(states[name][0] for name in new)
        if size >= _WORTH_SAYING_BYTES:
            self._report(
                f"Reading {size / 1e9:.0f} GB of raw tables once, for the "
                "fingerprint of their content"
            )
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            found = pool.map(file_fingerprint, map(pathlib.Path, new))
            for name, digest in zip(new, found, strict=True):
                self._known[name] = [states[name], digest]
        return [self._known[name][1] for name in states]

    def save(self) -> None:
        """Keeps the digests for the next run.

        Not those of files that changed a moment ago: the next change may
        fall into the same tick of the file system's clock.
        """
        if self._memory:
            old = time.time_ns() - _FRESH_NS
            kept = {k: v for k, v in self._known.items() if v[0][2] < old}
            write_json(self._memory, kept)


def file_state(path: pathlib.Path) -> list[int]:
    """Returns what is other after a file was written: size, times, inode."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def raw_fingerprint(raw_dir: str, digests: FileDigests) -> str:
    """Returns a digest of the names and contents of the raw tables.

    Raises:
        DataError: there are no raw tables.
    """
    tables = raw_tables.RawTables.open(raw_dir).tables
    return _of_tables({n: t.paths for n, t in tables.items()}, raw_dir, digests)


def search_fingerprints(raw_dir: str, digests: FileDigests) -> dict[str, str]:
    """Returns a digest of each table that item embeddings are made from.

    One per table: new samples or searches of a day do not make the content of
    the items new, and samples do not make the embeddings new.

    Raises:
        DataError: there are no raw tables.
    """
    items = raw_tables.RawTables.open(raw_dir)[raw_tables.ITEM_FEATURES]
    tables: dict[str, Iterable[pathlib.Path]] = {
        **dict.fromkeys(search_tables.TABLES, ()),
        **search_tables.find_tables(raw_dir),
        raw_tables.ITEM_FEATURES: items.paths,
    }
    return {
        name: _of_tables({name: paths}, raw_dir, digests)
        for name, paths in tables.items()
    }


def _of_tables(
    tables: dict[str, Iterable[pathlib.Path]],
    raw_dir: str,
    digests: FileDigests,
) -> str:
    digest = hashlib.sha256()
    for name in sorted(tables):
        paths = list(tables[name])
        for path, content in zip(paths, digests.of(paths), strict=True):
            # Folders are part of the data where they name partitions.
            place = os.path.relpath(path, pathlib.Path(raw_dir).expanduser())
            digest.update(repr((name, place, content)).encode())
    return digest.hexdigest()[:16]
