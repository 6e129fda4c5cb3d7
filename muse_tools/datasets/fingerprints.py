"""Digests of the raw tables, by which the cache notices changed data."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping

from muse_tools.datasets import raw_tables, search_tables
from muse_tools.datasets.object_paths import path_of
from muse_tools.datasets.text_tables import file_state
from serving.files import write_json

_FRESH_NS = 2_000_000_000
_BLOCK_BYTES = 4 << 20
_WORTH_SAYING_BYTES = 1 << 30


def file_fingerprint(path: pathlib.Path) -> str:
    """Returns a digest of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()[:16]


class FileDigests:
    """Digests of the content of files, each read once.

    A file is read again if its size, times or inode change. Writing sets
    ``ctime``, which no program can set back, so a change that keeps size and
    modification time is noticed as well. A JSON file keeps the digests between
    runs.
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
        """Returns the digest of each file, in the given order."""
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
            found = pool.map(file_fingerprint, map(path_of, new))
            for name, digest in zip(new, found, strict=True):
                self._known[name] = [states[name], digest]
        return [self._known[name][1] for name in states]

    def save(self) -> None:
        """Keeps the digests for the next run.

        Files that changed a moment ago are left out, because their next change
        may fall into the same tick of the file system's clock.
        """
        if self._memory:
            old = time.time_ns() - _FRESH_NS
            kept = {k: v for k, v in self._known.items() if v[0][2] < old}
            write_json(self._memory, kept)


def raw_fingerprint(raw_dir: str, digests: FileDigests) -> str:
    """Returns a digest of the names and contents of the raw tables.

    Raises:
        DataError: if there are no raw tables.
    """
    tables = raw_tables.RawTables.open(raw_dir).tables
    files = {n: t.sources or t.paths for n, t in tables.items()}
    return _of_tables(files, raw_dir, digests)


def search_fingerprints(raw_dir: str, digests: FileDigests) -> dict[str, str]:
    """Returns a digest of each table that item embeddings are made from.

    Each table has its own, so that new searches do not encode the items again
    and new samples do not train the embeddings again.
    """
    opened = raw_tables.RawTables.open(raw_dir)
    items = opened[raw_tables.ITEM_FEATURES]
    tables: dict[str, Iterable[pathlib.Path]] = {
        **dict.fromkeys(search_tables.TABLES, ()),
        **search_tables.find_tables(raw_dir),
        raw_tables.ITEM_FEATURES: items.sources or items.paths,
    }
    if opened.declared.text:
        tables[search_tables.ITEM_CONTENT] = items.sources or items.paths
    return {
        name: _of_tables({name: paths}, raw_dir, digests)
        for name, paths in tables.items()
    }


def _of_tables(
    tables: Mapping[str, Iterable[pathlib.Path]],
    raw_dir: str,
    digests: FileDigests,
) -> str:
    digest = hashlib.sha256()
    for name in sorted(tables):
        paths = list(tables[name])
        for path, content in zip(paths, digests.of(paths), strict=True):
            # Folders are part of the data if they name partitions.
            place = os.path.relpath(path, os.path.expanduser(raw_dir))
            digest.update(repr((name, place, content)).encode())
    return digest.hexdigest()[:16]
