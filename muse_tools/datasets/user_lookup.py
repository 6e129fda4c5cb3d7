"""Finds one user, and the names of items, in a raw data set.

User tables can be tens of gigabytes, so only the id column is read to find the
row group of the user, and then only the batches up to the user's row.
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
from muse_tools.datasets.arrow_lists import list_lengths
from muse_tools.datasets.errors import DataError
from serving.client import RankRequest
from serving.client.types import whole_number

NAMES_FILE = "names.parquet"
_NAMES = pa.schema(
    [("item_id", pa.int64()), ("name", pa.string()), ("category", pa.string())]
)
_CANDIDATES = 10
_LONG_HISTORY = 200


def find_user(
    directory: pathlib.Path, user_id: int, split: str = "test"
) -> dict[str, Any]:
    """Returns the fields of a `RankRequest` except the candidates.

    Raises:
        DataError: if the split has no usable row of the user.
    """
    user_id = whole_number(user_id)
    tables = raw_tables.RawTables.open(directory)
    table = tables[f"{split}_user_features"]
    table.check()
    row = _find_row(table, user_id)
    declared = tables.declared.features
    return {
        "user_id": user_id,
        "user": {
            name: row[f"user_{name}"][0].as_py() for name in declared.user
        },
        "behavior_item_ids": _values(row[raw_tables.BEHAVIOR_ITEM_IDS]),
        "behaviors": {
            name: _values(row[f"behavior_{name}"])
            for name in declared.behavior
            if name not in declared.of_items
        },
    }


def pick_request(directory: pathlib.Path) -> RankRequest:
    """Returns a request of the test split for a user with a long history."""
    tables = raw_tables.RawTables.open(directory)
    user = _user_with_history(tables)
    candidates: list[int] = []
    for batch in tables[raw_tables.TEST_SAMPLES].iter_batches():
        chosen = batch.filter(pc.equal(batch[raw_tables.USER_ID], user))
        candidates += chosen[raw_tables.ITEM_ID].to_pylist()
    distinct = list(dict.fromkeys(candidates))[:_CANDIDATES]
    return RankRequest(
        **find_user(directory, user), candidate_item_ids=distinct
    )


def _user_with_history(tables: raw_tables.RawTables) -> int:
    """Returns the first test user with a long history, or the longest one."""
    table = tables[raw_tables.TEST_USER_FEATURES]
    best = (0, 0)
    for read in table.iter_batches():
        batch = validation.validate(table.name, read).good
        lengths = list_lengths(batch[raw_tables.BEHAVIOR_ITEM_IDS])
        if not len(lengths):
            continue
        found = lengths >= _LONG_HISTORY
        row = int((found if found.any() else lengths).argmax())
        user = batch[raw_tables.USER_ID][row].as_py()
        if found.any():
            return user
        best = max(best, (int(lengths[row]), user))
    return best[1]


def item_names(
    directory: pathlib.Path, item_ids: Iterable[int]
) -> dict[int, str]:
    """Returns the names of items by id, as far as the data set has any."""
    wanted = pa.array(sorted(set(item_ids)), pa.int64())
    found = read_names(directory, pc.field("item_id").isin(wanted))
    return dict(
        zip(
            found["item_id"].to_pylist(), found["name"].to_pylist(), strict=True
        )
    )


def read_names(
    directory: pathlib.Path, filters: pc.Expression | None = None
) -> pa.Table:
    """Returns ``item_id``, ``name`` and ``category`` of items; may be empty."""
    path = directory / NAMES_FILE
    if not path.is_file():
        return _NAMES.empty_table()
    try:
        table = pq.read_table(path, filters=filters, partitioning=None)
        columns = {
            field.name: table[field.name].cast(field.type)
            if field.name in table.column_names or field.name != "category"
            else pa.nulls(len(table), field.type)
            for field in _NAMES
        }
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise DataError(
            "UNREADABLE_FILE",
            f"{path} is not a table of item_id and name: {error}.",
            "write its columns item_id (int64) and name (string), or remove it "
            "to see ids instead of names.",
        ) from error
    return pa.table(columns)


def _find_row(table: raw_tables.RawTable, user_id: int) -> pa.RecordBatch:
    """Returns the user's first row that the pipeline accepts."""
    rejected: list[str] = []
    for rows in _rows(table, user_id):
        good, bad = validation.validate(table.name, rows)
        if good.num_rows:
            return good
        rejected += bad["reason"].to_pylist()
    if rejected:
        raise DataError(
            "REJECTED_USER",
            f"table {table.name}: user {user_id} has no usable row: "
            f"{', '.join(rejected)}.",
            "choose another user, or give --request FILE.json.",
        )
    example = _first_id(table)
    hint = f", for example {example}" if example is not None else ""
    raise DataError(
        "UNKNOWN_USER",
        f"table {table.name}: no user {user_id}.",
        f"choose a user_id of that table{hint}, or give --request FILE.json.",
    )


def _rows(table: raw_tables.RawTable, user_id: int) -> Iterator[pa.RecordBatch]:
    """Yields the rows of the user, group by group."""

    def mine(batch: pa.RecordBatch) -> pa.Array:
        return pc.equal(batch[raw_tables.USER_ID], user_id)

    for path in table.paths:
        with parquet_files.open_file(table.name, path) as file:
            for group in range(file.num_row_groups):
                ids = table.read(file, path, [raw_tables.USER_ID], [group])
                if not any(pc.any(mine(batch)).as_py() for batch in ids):
                    continue
                for batch in table.read(file, path, None, [group]):
                    if pc.any(mine(batch)).as_py():
                        yield batch.filter(mine(batch))


def _first_id(table: raw_tables.RawTable) -> int | None:
    for batch in table.iter_batches([raw_tables.USER_ID], 1):
        found: int | None = batch.column(0)[0].as_py()
        if found:
            return found
    return None


def _values(column: pa.Array) -> np.ndarray:
    """Returns the list in the first row of a column."""
    return np.asarray(column.slice(0, 1).flatten())
