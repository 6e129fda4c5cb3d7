"""Finds one user, and names of items, in a raw data set.

User tables can be tens of gigabytes: only the id column is read to find the
user's row group, and only the batch that holds the row after that.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from muse_tools.datasets import parquet_files, raw_tables, validation
from muse_tools.datasets.arrow_lists import values_of
from muse_tools.datasets.errors import DataError
from serving.client import RankRequest

__all__ = [
    "NAMES_FILE",
    "find_request",
    "find_user",
    "item_names",
    "pick_request",
]

NAMES_FILE = "names.parquet"
_BATCH_ROWS = 1024
_ID_ROWS = 1 << 17
_CANDIDATES = 10
_LONG_HISTORY = 200


def find_request(
    directory: pathlib.Path,
    user_id: int,
    candidate_item_ids: Iterable[int],
    split: str = "test",
) -> RankRequest:
    """Makes a request from a user's row.

    Args:
        directory: data set, holding the raw tables or `raw/`.
        user_id: the user.
        candidate_item_ids: items to score.
        split: `test` or `train`.

    Returns:
        The request with the user's profile and history.

    Raises:
        DataError: no such table or user.
    """
    return RankRequest(
        **find_user(directory, user_id, split),
        candidate_item_ids=list(candidate_item_ids),
    )


def find_user(
    directory: pathlib.Path, user_id: int, split: str = "test"
) -> dict[str, Any]:
    """Finds what a request says about a user.

    Args:
        directory: data set, holding the raw tables or `raw/`.
        user_id: the user.
        split: `test` or `train`.

    Returns:
        The fields of a `RankRequest` but the candidates.

    Raises:
        DataError: no such table or user.
    """
    tables = raw_tables.RawTables.open(directory)
    table = tables[f"{split}_user_features"]
    table.check()
    row = _find_row(table, user_id)
    return {
        "user_id": user_id,
        "user_profile": [
            row[code][0].as_py() for code in raw_tables.USER_PROFILE
        ],
        "behavior_item_ids": _ids(row[raw_tables.BEHAVIOR_ITEM_IDS]),
        "behavior_category_ids": _ids(row[raw_tables.BEHAVIOR_CATEGORY_IDS]),
    }


def pick_request(directory: pathlib.Path) -> RankRequest:
    """Returns a request of the test weeks: a user with a long history.

    Args:
        directory: data set directory.
    """
    tables = raw_tables.RawTables.open(directory)
    user = next(_users_with_history(tables))
    candidates: list[int] = []
    for batch in tables[raw_tables.TEST_SAMPLES].iter_batches():
        column = batch.column(batch.schema.get_field_index(raw_tables.USER_ID))
        chosen = batch.filter(pc.equal(column, user))
        index = chosen.schema.get_field_index(raw_tables.ITEM_ID)
        candidates += chosen.column(index).to_pylist()
    distinct = list(dict.fromkeys(candidates))[:_CANDIDATES]
    return find_request(directory, user, distinct)


def _users_with_history(tables: raw_tables.RawTables) -> Iterator[int]:
    """Yields test users with long histories first."""
    best = (0, 0)
    for read in tables[raw_tables.TEST_USER_FEATURES].iter_batches():
        batch = validation.validate_user_features(read).good
        ids = batch.column(batch.schema.get_field_index(raw_tables.USER_ID))
        lists = batch.column(
            batch.schema.get_field_index(raw_tables.BEHAVIOR_ITEM_IDS)
        )
        lengths = values_of(pc.list_value_length(lists))
        for row in np.flatnonzero(lengths >= _LONG_HISTORY).tolist():
            yield ids[row].as_py()
        if len(lengths):
            row = int(lengths.argmax())
            best = max(best, (int(lengths[row]), ids[row].as_py()))
    yield best[1]


def item_names(
    directory: pathlib.Path, item_ids: Iterable[int]
) -> dict[int, str]:
    """Reads names of items, where the data set has any.

    Args:
        directory: data set.
        item_ids: items.

    Returns:
        Id to name, only what is known; empty without a `names.parquet`.

    Raises:
        DataError: the file cannot be read.
    """
    path = directory / NAMES_FILE
    if not path.is_file():
        return {}
    wanted = pa.array(sorted(set(item_ids)), pa.int64())
    found: dict[int, str] = {}
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=["item_id", "name"]):
                table = pa.Table.from_batches([batch])
                chosen = table.filter(
                    pc.is_in(table["item_id"], value_set=wanted)
                )
                found.update(
                    zip(
                        chosen["item_id"].to_pylist(),
                        chosen["name"].to_pylist(),
                        strict=True,
                    )
                )
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise DataError(
            "UNREADABLE_FILE",
            f"{path} is not a table of item_id and name: {error}.",
            "write its columns item_id (int64) and name (string), or remove it "
            "to see ids instead of names.",
        ) from error
    return found


def _find_row(table: raw_tables.RawTable, user_id: int) -> pa.RecordBatch:
    """Returns the user's first row that the pipeline accepts."""
    example = None
    rejected: list[str] = []
    for path in table.paths:
        with parquet_files.open_file(table.name, path) as file:
            for group in range(file.num_row_groups):
                if not _may_hold(file, group, user_id):
                    continue
                for row in _rows(table, path, file, group, user_id):
                    good, bad = validation.validate_user_features(row)
                    if good.num_rows:
                        return good
                    rejected += bad["reason"].to_pylist()
        if example is None:
            example = _first_id(table)
    if rejected:
        raise DataError(
            "REJECTED_USER",
            f"table {table.name}: user {user_id} has no usable row: "
            f"{', '.join(rejected)}.",
            "choose another user, or give --request FILE.json.",
        )
    hint = f", for example {example}" if example is not None else ""
    raise DataError(
        "UNKNOWN_USER",
        f"table {table.name}: no user {user_id}.",
        f"choose a user_id of that table{hint}, or give --request FILE.json.",
    )


def _rows(
    table: raw_tables.RawTable,
    path: pathlib.Path,
    file: pq.ParquetFile,
    group: int,
    user_id: int,
) -> Iterator[pa.RecordBatch]:
    """Yields a user's rows of a row group, one at a time."""

    def batches(schema: pa.Schema, size: int) -> Iterator[pa.RecordBatch]:
        for batch in parquet_files.iter_batches(
            file, path, schema.names, size, [group]
        ):
            yield raw_tables.conform(batch, schema, table.name)

    ids = pa.schema([table.schema.field(raw_tables.USER_ID)])
    found = pa.chunked_array(
        [batch.column(0) for batch in batches(ids, _ID_ROWS)], pa.int64()
    )
    if not pc.any(pc.equal(found, user_id)).as_py():
        return
    for batch in batches(table.schema, _BATCH_ROWS):
        mine = pc.equal(batch[raw_tables.USER_ID], user_id)
        chosen = batch.filter(mine)
        for row in range(chosen.num_rows):
            yield chosen.slice(row, 1)


def _may_hold(file: pq.ParquetFile, group: int, user_id: int) -> bool:
    meta = file.metadata.row_group(group)
    for index in range(meta.num_columns):
        column = meta.column(index)
        if column.path_in_schema != raw_tables.USER_ID:
            continue
        statistics = column.statistics
        # Only those of plain integers: decimals and floats have others.
        if statistics is None or not pa.types.is_signed_integer(
            file.schema_arrow.field(raw_tables.USER_ID).type
        ):
            return True
        return not statistics.has_min_max or bool(
            statistics.min <= user_id <= statistics.max
        )
    return True


def _first_id(table: raw_tables.RawTable) -> int | None:
    for batch in table.iter_batches([raw_tables.USER_ID], 1):
        found: int | None = batch.column(0)[0].as_py()
        if found:
            return found
    return None


def _ids(column: pa.Array) -> np.ndarray:
    return np.asarray(column[0].as_py() or [], np.int64)
