"""Summarizes a directory of raw tables in one streaming pass over each table.

With a problem (a missing table or column, a wrong type, an unreadable or empty
file, no usable row, no click, no impression that joins, a log whose splits or
histories are empty) the pipeline cannot run. Rejected rows, impressions that do
not join, unused columns and ids numbered from 0 are reported as notes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

from muse_tools.datasets import (
    casting,
    dataset_dir,
    log_checks,
    raw_tables,
    search_tables,
    table_inspection,
)
from muse_tools.datasets.dataset_dir import Progress
from muse_tools.datasets.errors import DataError
from muse_tools.datasets.reading import Reading
from muse_tools.datasets.search_inspection import inspect_search
from schemas.ranking_schema import RankingSchema

DEFAULT_MAX_USERS = 200_000
"""Default number of user rows per table whose histories are read."""

MAX_REJECTED = 0.01
"""Default of ``data.max_rejected_fraction``, above which the join stops."""


def inspect(
    directory: str | os.PathLike[str],
    max_users: int = DEFAULT_MAX_USERS,
    progress: Progress | None = None,
    declared: RankingSchema | None = None,
) -> dict[str, Any]:
    """Summarizes the declared raw tables of a directory as JSON values.

    Memory holds the distinct item and user ids (eight bytes each) and one
    batch. Time grows with the rows; `max_users` bounds the time for histories.
    """
    if max_users < 0:
        raise ValueError(
            f"max_users: expected 0 or more. Received: {max_users}"
        )
    tables = raw_tables.RawTables.open(directory, declared=declared)
    reading = Reading(tables, progress or (lambda stage, done: None))
    overview = dict(_overview(reading, directory))
    items, item_keys = table_inspection.inspect_items(reading)
    embeddings, embedded = table_inspection.inspect_embeddings(reading)
    samples, users, events = {}, {}, None
    log = tables.declared.log
    for split in ("all",) if log else raw_tables.SPLITS:
        of_users = f"{split}_user_features"
        of_samples = raw_tables.IMPRESSIONS if log else f"{split}_samples"
        if log:
            section, keys = table_inspection.inspect_users_of_logs(reading)
        else:
            keys, repeats = table_inspection.user_keys(reading, of_users)
        known = {"users": keys, "items": item_keys, "embedded": embedded}
        found, shown = table_inspection.inspect_samples(
            reading, of_samples, known
        )
        if found is not None:
            samples[split] = found
        if log:
            events = table_inspection.inspect_events(reading, item_keys, shown)
            if found is not None:
                reading.problems += log_checks.problems(log, found, events)
        else:
            section = table_inspection.inspect_users(
                reading, of_users, max_users, embedded
            )
            if section is not None:
                rows = overview[of_users]["rows"]
                complete = {"complete": section["read"] == rows}
                section |= complete | {"duplicate_rows": repeats}
        if section is not None:
            users[split] = section
    search = inspect_search(directory, item_keys, reading)
    for split, found in samples.items():
        _check_samples(split, found, reading)
    joins = [s["joined"] for s in samples.values() if s["joined"] is not None]
    reading.rejections.show_texts(tables)
    made = dataset_dir.read_description(directory)
    return {
        "directory": str(tables.root),
        "schema": tables.declared.name,
        "dataset": {key: made[key] for key in ("name", "generator_version")}
        if made
        else None,
        "ok": not reading.problems,
        "problems": [vars(problem) for problem in reading.problems],
        "notes": [
            *reading.notes,
            *reading.rejections.notes(),
            *reading.numberings.notes(),
        ],
        "rejections": reading.rejections.as_json(),
        "tables": overview,
        "samples": samples,
        "users": users,
        "events": events,
        "items": items,
        "embeddings": embeddings,
        "search": search,
        "joins": all(one > 0 for one in joins) if joins else None,
    }


def _overview(
    reading: Reading, directory: str | os.PathLike[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Checks the presence, footers and schemas of all tables."""
    for name in raw_tables.schemas(reading.tables.declared):
        if name == raw_tables.EMBEDDINGS and name not in reading.tables:
            _check_vectors(reading, directory)
            continue
        try:
            table = reading.tables[name]
        except DataError as error:
            reading.problems.append(error)
            continue
        problems = table.problems()
        rows, columns, unused = None, {}, []
        with contextlib.suppress(DataError):  # Already among the problems.
            rows = table.num_rows()
            found = table.file_schema()
            unused = reading.unused_columns(table, found)
            names = {raw_tables.column_of(f): f.name for f in table.schema}
            columns = {
                field.name: {
                    "name": names.get(field.name),
                    "type": casting.describe(field.type),
                }
                for field in found
            }
        if rows == 0:
            problems.append(raw_tables.empty_table(name))
        reading.problems += problems
        if rows and not problems:
            with contextlib.suppress(DataError):  # Its reading reports it.
                reading.check_separators(table, found)
            reading.admit(name, rows)
        yield (
            name,
            {
                "files": len(table.paths),
                "bytes": table.num_bytes(),
                "rows": rows,
                "columns": columns,
                "unused_columns": unused,
                "ok": not problems,
                "problems": [str(p) for p in problems],
            },
        )


def _check_vectors(reading: Reading, directory: str | os.PathLike[str]) -> None:
    """Notes that item vectors are missing, and what they can be made from."""
    name, content = raw_tables.EMBEDDINGS, search_tables.ITEM_CONTENT
    found = search_tables.find_tables(directory)
    ways = ["learned"] if {*search_tables.TABLES} <= set(found) else []
    with contextlib.suppress(DataError):  # The entry of the table reports it.
        if search_tables.open_table(directory, content).text:
            ways.append("text_svd")
    if ways:
        reading.notes.append(
            f"There is no {name}: run the pipeline with item_embeddings: "
            f"{' or '.join(ways)}, which makes vectors from {content}."
        )
        return
    reading.problems.append(
        DataError(
            "MISSING_TABLE",
            f"table {name}: not found in {reading.tables.root}, nor "
            f"{content} to make item vectors from.",
            f"put {name}.parquet there; or {content}.parquet with "
            "columns item_id and text, and run the pipeline with "
            "item_embeddings: text_svd.",
        )
    )


def _check_samples(
    split: str, found: Mapping[str, Any], reading: Reading
) -> None:
    """Adds problems that make a split unusable, and notes on missing joins."""
    joined = found["joined"]
    if not found["accepted"]:
        return
    total = f"{found['accepted']:,} {split} impressions"
    declared = reading.tables.declared
    table = "impressions" if declared.log else f"{split}_samples"
    of_users = "users" if declared.log else f"{split}_user_features"
    if found["click_rate"] in (0, 1):
        some = "none" if found["clicks"] == 0 else "every one"
        reading.problems.append(
            DataError(
                "ONE_LABEL",
                f"table {table}: {some} of the {total} is a "
                "click. Expected: some that are and some that are not.",
                "write clicked and other impressions; a model cannot be "
                "trained or evaluated on one kind.",
            )
        )
    if joined == 0:
        reading.problems.append(
            DataError(
                "NO_JOIN",
                f"The tables do not join: none of the {total} has both a "
                f"user row ({_percent(found['with_user_row'])} have) and an "
                f"item row ({_percent(found['with_item_row'])} have).",
                f"write the same ids into {table}, {of_users} "
                f"({declared.tables['users']['user_id']}) and item_features "
                f"({declared.tables['items']['item_id']}).",
            )
        )
    elif joined is not None and joined < 1:
        reading.notes.append(
            f"{1 - joined:.4%} of the {total} do not join: user row "
            f"{_percent(found['with_user_row'], 4)}, item row "
            f"{_percent(found['with_item_row'], 4)}. The pipeline rejects "
            "and counts them."
        )
    usable = found["accepted"] * (1 if joined is None else joined)
    lost = 1 - usable / found["read"]
    if joined != 0 and lost > MAX_REJECTED:
        reading.notes.append(
            f"The pipeline would reject {lost:.2%} of the {found['read']:,} "
            f"{split} impressions and stop, since it allows "
            f"{MAX_REJECTED:.0%} by default: correct the rows or raise "
            "data.max_rejected_fraction."
        )


def _percent(share: float | None, digits: int = 2) -> str:
    """Formats a share; None, for a table that is not needed, counts as all."""
    return f"{1.0 if share is None else share:.{digits}%}"
