"""Reads the users of an event log with histories of their events."""

from __future__ import annotations

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from muse_tools.datasets import raw_tables, table_writer, validation
from schemas.ranking_schema import Log
from serving.stores import Layout
from tfx_pipeline.components.rejected_rows import RejectedRows
from tfx_pipeline.transforms import arrow_batches, event_histories, requests
from tfx_pipeline.transforms.steps import POSITION, partitions_for

_TIMES = "behavior_times"
_BUFFER_BYTES = 1 << 20
_LATER_THAN_ALL = np.iinfo(np.int64).max


def user_names(tables: raw_tables.RawTables) -> list[str]:
    """Returns the columns of `iter_users`, which are those of a store."""
    layout = Layout.of(tables.declared)
    return [
        raw_tables.USER_ID,
        *(f"user_{name}" for name in layout.user),
        raw_tables.BEHAVIOR_ITEM_IDS,
        *(f"behavior_{name}" for name in layout.behaviors),
        _TIMES,
    ]


def iter_users(
    tables: raw_tables.RawTables, log: Log, rejected: RejectedRows
) -> Iterator[pa.RecordBatch]:
    """Yields users with their newest ``log.max_history`` events.

    The order of users depends on nothing but the tables. Temporary files bound
    the memory to one part of the users, about 64 MB of events.
    """
    events = tables[raw_tables.EVENTS]
    parts = partitions_for(events.num_bytes())
    names = user_names(tables)
    with tempfile.TemporaryDirectory(prefix="muse-events-") as temporary:
        folder = pathlib.Path(temporary)
        for name in (raw_tables.EVENTS, raw_tables.USERS):
            if name in tables:
                _scatter(tables[name], folder / name, parts, log, rejected)
        for part in range(parts):
            events_of, users_of = (
                arrow_batches.concatenate(pq.read_table(path).to_batches())
                if (path := folder / name / f"{part}.parquet").is_file()
                else None
                for name in (raw_tables.EVENTS, raw_tables.USERS)
            )
            if events_of is None:
                events_of = event_histories.no_events(tables.declared)
            batch = _joined(events_of, users_of, names, log)
            if batch.num_rows:
                yield batch


def _scatter(
    table: raw_tables.RawTable,
    folder: pathlib.Path,
    parts: int,
    log: Log,
    rejected: RejectedRows,
) -> None:
    """Writes the usable rows of a table to one file per part of the users."""
    position = 0
    writers: dict[int, table_writer.TableWriter] = {}
    with contextlib.ExitStack() as stack:
        for read in table.iter_batches():
            place = pa.array(np.arange(position, position + read.num_rows))
            position += read.num_rows
            batch = arrow_batches.append(read, **{POSITION: place})
            batch, bad = validation.validate(table.name, batch)
            rejected.write(table.name, bad)
            if table.name == raw_tables.EVENTS:
                batch = event_histories.behaviors(batch, log)
            for part, rows in arrow_batches.partition(
                batch, raw_tables.USER_ID, parts
            ):
                if part not in writers:
                    writer = table_writer.TableWriter(
                        folder / f"{part}.parquet",
                        raw_tables.plain(rows.schema),
                        _BUFFER_BYTES,
                    )
                    writers[part] = stack.enter_context(writer)
                writers[part].write(rows)


def _joined(
    events: pa.RecordBatch,
    users: pa.RecordBatch | None,
    names: list[str],
    log: Log,
) -> pa.RecordBatch:
    """Returns all users of one part, from both tables, sorted by id."""
    events = events.filter(pa.array(~event_histories.is_repeated(events)))
    times = arrow_batches.column(events, raw_tables.TIME)
    events = arrow_batches.append(events, **{_TIMES: times})
    known = [arrow_batches.numpy_column(events, raw_tables.USER_ID)]
    if users is not None:
        users = users.filter(
            pa.array(requests.is_first(users, raw_tables.USER_ID))
        )
        known.append(arrow_batches.numpy_column(users, raw_tables.USER_ID))
    ids = np.unique(np.concatenate(known))
    histories = event_histories.EventHistories(
        events, np.searchsorted(ids, known[0]), log
    ).before(np.arange(len(ids)), np.full(len(ids), _LATER_THAN_ALL))
    rows = requests.rows_of(users, raw_tables.USER_ID, ids)
    columns = {raw_tables.USER_ID: pa.array(ids), **histories}
    places = pa.array(rows, mask=rows < 0)
    for name in names:
        if name not in columns:  # It is a user feature.
            columns[name] = (
                pa.nulls(len(ids), pa.int64())
                if users is None
                else arrow_batches.column(users, name).take(places)
            )
    return pa.RecordBatch.from_arrays([columns[n] for n in names], names)
