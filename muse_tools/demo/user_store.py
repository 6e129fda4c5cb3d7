"""Loads a user table of a raw data set into a behavior store."""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Callable

from muse_tools.datasets import raw_tables
from serving.stores import BehaviorStore, LoadReport, load_users
from tfx_pipeline.runs.fingerprints import file_state

Progress = Callable[[LoadReport, int], None]


def user_table(
    directory: pathlib.Path, split: str = "test"
) -> raw_tables.RawTable:
    """Finds a user table and checks its columns; DataError if it cannot."""
    table = raw_tables.RawTables.open(directory)[f"{split}_user_features"]
    table.check()
    return table


def load_table(
    store: BehaviorStore,
    directory: pathlib.Path,
    split: str = "test",
    rejected: pathlib.Path | None = None,
    on_progress: Progress | None = None,
) -> LoadReport:
    """Writes every user of a table into a store, in place of what was there.

    Started again after a failure, it goes on where it stopped. Raises DataError
    or StoreError where a side cannot be read or written.
    """
    table = user_table(directory, split)
    total = table.num_rows()

    def tell(report: LoadReport) -> None:
        if on_progress is not None:
            on_progress(report, total)

    return load_users(
        store,
        table.iter_batches(),
        source=_fingerprint(table.name, table.paths),
        rejected=rejected or directory / f"{table.name}.rejected",
        on_progress=tell,
    )


def _fingerprint(name: str, paths: tuple[pathlib.Path, ...]) -> str:
    """Identifies a table and its state without reading it."""
    digest = hashlib.sha256(name.encode())
    for path in paths:
        digest.update(f"{path.resolve()} {file_state(path)}\n".encode())
    return digest.hexdigest()
