"""Loads users into a behavior store, and resolves their items to rows."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from muse_tools.datasets import raw_tables
from muse_tools.datasets.errors import DataError
from muse_tools.datasets.raw_tables import column_of
from muse_tools.datasets.text_tables import file_state
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


@dataclasses.dataclass(frozen=True)
class Users:
    """Users of a data set, from a table with histories or from an event log."""

    directory: pathlib.Path
    tables: raw_tables.RawTables
    main: raw_tables.RawTable

    @classmethod
    def find(cls, directory: pathlib.Path, split: str = "test") -> Users:
        """Finds the users of a split; for an event log it has no effect.

        Raises:
            DataError: if the table is missing or has wrong columns.
        """
        tables = raw_tables.RawTables.open(directory)
        log = tables.declared.log
        users = cls(
            directory,
            tables,
            tables[raw_tables.EVENTS if log else f"{split}_user_features"],
        )
        users.main.check()
        return users

    @property
    def layout(self) -> Layout:
        """The features that a store keeps of these users."""
        return Layout.of(self.tables.declared)

    @contextlib.contextmanager
    def read(
        self, rejected: pathlib.Path, counts: collections.Counter[str]
    ) -> Iterator[tuple[Iterator[pa.RecordBatch], dict[str, str]]]:
        """Yields rows, and columns by name, for `load_users`."""
        if log := self.tables.declared.log:
            from muse_tools.stores import event_users  # Slow: imports Beam.
            from tfx_pipeline.components.rejected_rows import RejectedRows

            names = event_users.user_names(self.tables)
            with RejectedRows(rejected, counts) as bad:
                rows = event_users.iter_users(self.tables, log, bad)
                yield rows, {name: name for name in names}
            return
        columns = {field.name: column_of(field) for field in self.main.schema}
        # Rejected rows keep the column names of the files.
        yield (
            (
                pa.RecordBatch.from_arrays(batch.columns, [*columns.values()])
                for batch in self.main.iter_batches()
            ),
            columns,
        )


def load_table(
    store: BehaviorStore,
    users: Users,
    rejected: pathlib.Path | None = None,
    on_progress: Progress | None = None,
) -> LoadReport:
    """Writes every user into a store, replacing earlier histories.

    After a failure, a second call continues where the first one stopped.

    Raises:
        DataError: if the data cannot be read or do not match the store.
        StoreError: if the store cannot be read or written.
    """
    if problem := store.layout.difference(users.layout, "the data"):
        raise DataError(
            "OTHER_LAYOUT",
            f"the store was made for other data: {problem}.",
            "load these data into a new store.",
        )
    table = users.main
    total = table.num_rows()

    def tell(report: LoadReport) -> None:
        if on_progress is not None:
            on_progress(report, total)

    folder = rejected or users.directory / f"{table.name}.rejected"
    counts: collections.Counter[str] = collections.Counter()
    with users.read(folder, counts) as (rows, columns):
        report = load_users(
            store,
            rows,
            columns=columns,
            source=_fingerprint(table.name, table.paths),
            rejected=folder,
            on_progress=tell,
        )
    for reason, count in counts.items():
        name = reason.removeprefix("rejected/")
        report.rejected[name] = report.rejected.get(name, 0) + count
    return report


def _fingerprint(name: str, paths: tuple[pathlib.Path, ...]) -> str:
    """Returns a digest of a table's name and the state of its files."""
    digest = hashlib.sha256(name.encode())
    for path in paths:
        digest.update(f"{path.resolve()} {file_state(path)}\n".encode())
    return digest.hexdigest()


def resolve_rows(store: BehaviorStore, server: MuseClient) -> tuple[int, int]:
    """Stores, for every user, the item-table rows of the user's items.

    Returns how many users were resolved, and how many were not, because their
    history changed meanwhile.
    """
    done = behind = 0
    for users in _groups(store):
        kept = _resolve(store, server, users)
        done += kept
        behind += len(users) - kept
    return done, behind


def _groups(store: BehaviorStore) -> Iterator[list[UserHistory]]:
    """Yields groups of users whose items one call can resolve."""
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
    """Stores the rows of a group; returns for how many users it succeeded."""
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
