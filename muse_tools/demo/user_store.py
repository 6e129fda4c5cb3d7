"""Loads users into a behavior store, and resolves their items to rows."""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from muse_tools.datasets import raw_tables
from muse_tools.datasets.fingerprints import file_state
from muse_tools.datasets.raw_tables import column_of
from serving.client import MuseClient
from serving.stores import (
    BehaviorStore,
    Layout,
    LoadReport,
    UserHistory,
    load_users,
)

Progress = Callable[[LoadReport, int], None]

_RESOLVE_IDS = 100_000


def user_table(
    directory: pathlib.Path, split: str = "test"
) -> raw_tables.RawTable:
    """Finds a user table and checks its columns; DataError if it cannot."""
    table = raw_tables.RawTables.open(directory)[f"{split}_user_features"]
    table.check()
    return table


def layout_of(table: raw_tables.RawTable) -> Layout:
    """Returns what a store of a table's users keeps."""
    return Layout.of_columns(table.schema.names)


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
    columns = {field.name: column_of(field) for field in table.schema}

    def tell(report: LoadReport) -> None:
        if on_progress is not None:
            on_progress(report, total)

    return load_users(
        store,
        # Rejected rows keep the columns that they have in the files.
        (
            pa.RecordBatch.from_arrays(batch.columns, [*columns.values()])
            for batch in table.iter_batches()
        ),
        columns=columns,
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


def resolve_rows(store: BehaviorStore, server: MuseClient) -> tuple[int, int]:
    """Sets the rows of every user's items in the served item table.

    Returns how many users were resolved, and whose history went on meanwhile.
    """
    done = behind = 0
    for users in _groups(store):
        kept = _resolve(store, server, users)
        done += kept
        behind += len(users) - kept
    return done, behind


def _groups(store: BehaviorStore) -> Iterator[list[UserHistory]]:
    """Yields groups of users that one call can resolve."""
    group: list[UserHistory] = []
    ids = 0
    for user_id in store.user_ids():
        found = store.read(user_id)
        if found is None:
            continue
        if group and ids + len(found) > _RESOLVE_IDS:
            yield group
            group, ids = [], 0
        group.append(found)
        ids += len(found)
    if group:
        yield group


def _resolve(
    store: BehaviorStore, server: MuseClient, users: list[UserHistory]
) -> int:
    """Returns how many users' rows were kept."""
    histories = [user.item_ids for user in users]
    ids, places = np.unique(np.concatenate(histories), return_inverse=True)
    if not len(ids):
        return len(users)
    resolved = server.resolve_items(ids)
    ends = np.cumsum([len(history) for history in histories])[:-1]
    found = np.asarray(resolved.rows)[places.reshape(-1)]
    return sum(
        store.set_rows(
            user.user_id, part, int(resolved.table_stamp), end=user.end
        )
        for user, part in zip(users, np.split(found, ends), strict=True)
    )
