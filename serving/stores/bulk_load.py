"""Loads histories of many users from record batches."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from serving.files import appearing
from serving.stores.base import BehaviorStore, Mark, UserRecord
from serving.stores.layout import Kind

if TYPE_CHECKING:
    import pyarrow as pa

_TIMES = "behavior_times"
_COMMIT_USERS = 2048
_COMMIT_EVENTS = 2_000_000


@dataclasses.dataclass
class LoadReport:
    """Result of a load.

    Attributes:
        rows: number of rows read, including those of an earlier attempt.
        resumed: rows that an earlier attempt had loaded.
        users: users loaded now.
        events: events stored for these users.
        padding: events with item id 0, which are left out.
        rejected: number of rows rejected now, by reason.
        seconds: duration.
    """

    rows: int = 0
    resumed: int = 0
    users: int = 0
    events: int = 0
    padding: int = 0
    rejected: dict[str, int] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0


def load_users(
    store: BehaviorStore,
    batches: Iterable[pa.RecordBatch],
    *,
    columns: Mapping[str, str],
    source: str,
    rejected: pathlib.Path,
    on_progress: Callable[[LoadReport], None] | None = None,
) -> LoadReport:
    """Writes all users of a table to a store, replacing existing ones.

    If a user has several valid rows, the first one is loaded, as in training;
    the others are rejected.

    If a load was killed and is started again with the same source, it resumes.
    Its last write may be repeated, which changes nothing unless events were
    appended to these users in between; so append only after a load.

    Args:
        store: the store to write to.
        batches: rows of users; the same rows in the same order whenever
            `source` is the same.
        columns: the columns of `user_id`, `behavior_item_ids`, the features
            `user_<f>` and `behavior_<f>`, and `behavior_times` if the layout
            has times, by these names. If lists of user features are longer
            than in the layout, their first values are loaded.
        source: identifies the table and its state.
        rejected: folder for rows that cannot be loaded: files
            `part-<row>.parquet`, with a column `reason`. Files of another
            source are removed.
        on_progress: called after each write.

    Raises:
        ValueError: a column is missing, or the store's layout lacks a
            feature.
        StoreError: the store cannot be written to.
    """
    begin = time.monotonic()
    report = LoadReport(resumed=_resume(store, source))
    if not report.resumed and rejected.is_dir():
        for part in rejected.glob("part-*.parquet"):
            part.unlink()
    seen = np.zeros(0, np.int64)
    vectors = {
        f"user_{name}": kind.width
        for name, kind in store.layout.user.items()
        if kind.dtype == "float32" and kind.width > 1
    }
    for batch in batches:
        named = _named(batch, columns)
        reasons = _reasons(named, vectors)
        seen = _reject_repeated(named, reasons, seen)
        skip = min(batch.num_rows, max(0, report.resumed - report.rows))
        report.rows += skip
        offset = skip
        while offset < batch.num_rows:
            part = named.slice(offset, _rows_to_commit(named, offset))
            why = reasons[offset : offset + part.num_rows]
            raw = batch.slice(offset, part.num_rows)
            _write_rejected(rejected, report.rows, raw, why)
            _load(store, part, why, source, report)
            offset += part.num_rows
            report.seconds = time.monotonic() - begin
            if on_progress is not None:
                on_progress(report)
    store.replace_many([], _mark(source, report.rows, True))
    report.seconds = time.monotonic() - begin
    return report


def _resume(store: BehaviorStore, source: str) -> int:
    note = json.loads(store.read_mark("load") or "{}")
    if note.get("source") != source or note["done"]:
        return 0
    return int(note["rows"])


def _mark(source: str, rows: int, done: bool) -> Mark:
    note = {"source": source, "rows": rows, "done": done}
    return Mark("load", json.dumps(note))


def _rows_to_commit(batch: pa.RecordBatch, offset: int) -> int:
    """Returns the number of rows from `offset` on for one write."""
    lengths = _lengths(batch["behavior_item_ids"])
    total = np.cumsum(lengths[offset : offset + _COMMIT_USERS])
    return max(1, int(np.searchsorted(total, _COMMIT_EVENTS, side="right")))


def _named(batch: pa.RecordBatch, columns: Mapping[str, str]) -> pa.RecordBatch:
    """Returns the columns to load, under their names."""
    for name, column in columns.items():
        if batch.schema.get_field_index(column) < 0:
            raise ValueError(
                f"the table needs a column {column} ({name}). Received: "
                f"{batch.schema.names}"
            )
    import pyarrow as pa

    arrays = [batch[column] for column in columns.values()]
    return pa.RecordBatch.from_arrays(arrays, list(columns))


def _load(
    store: BehaviorStore,
    batch: pa.RecordBatch,
    reasons: np.ndarray,
    source: str,
    report: LoadReport,
) -> None:
    """Writes the valid rows to the store."""
    behaviors = _behaviors(batch)
    user = {
        name.removeprefix("user_"): _user_values(
            batch[name], store.layout.user.get(name.removeprefix("user_"))
        )
        for name in batch.schema.names
        if name.startswith("user_") and name != "user_id"
    }
    users = []
    for row in np.flatnonzero(reasons == "").tolist():
        items = _list(batch, "behavior_item_ids", row)
        real = items != 0
        report.padding += int(len(real) - real.sum())
        report.events += min(int(real.sum()), store.limit)
        users.append(
            UserRecord(
                batch["user_id"][row].as_py(),
                {name: values[row] for name, values in user.items()},
                items[real],
                {
                    name.removeprefix("behavior_"): _list(batch, name, row)[
                        real
                    ]
                    for name in behaviors
                    if name != _TIMES
                },
                _list(batch, _TIMES, row)[real]
                if _TIMES in behaviors
                else None,
            )
        )
    done = report.rows + batch.num_rows
    store.replace_many(users, _mark(source, done, False))
    report.rows = done
    report.users += len(users)
    for reason in reasons[reasons != ""].tolist():
        report.rejected[reason] = report.rejected.get(reason, 0) + 1


def _list(batch: pa.RecordBatch, name: str, row: int) -> np.ndarray:
    values = batch[name][row].values.to_numpy(zero_copy_only=False)
    kind = np.float32 if values.dtype.kind == "f" else np.int64
    return values.astype(kind, copy=False)


def _behaviors(batch: pa.RecordBatch) -> list[str]:
    """Returns the names of lists that are as long as the lists of items."""
    names: list[str] = batch.schema.names
    return [
        name
        for name in names
        if name.startswith("behavior_") and name != "behavior_item_ids"
    ]


def _user_values(column: pa.Array, kind: Kind | None) -> list[Any]:
    """Returns a user feature of each row, None if it is missing."""
    values: list[Any] = column.to_pylist()
    if kind is None or kind.width == 1:
        return values
    # In a list of categories, null and 0 are the same.
    zero = 0 if kind.dtype == "int64" else None
    return [
        one and [zero if n is None else n for n in one[: kind.width]]
        for one in values
    ]


def _numbers(column: pa.Array) -> np.ndarray:
    return column.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)


def _lengths(lists: pa.Array) -> np.ndarray:
    return _numbers(lists.value_lengths())


def _reject_repeated(
    batch: pa.RecordBatch, reasons: np.ndarray, seen: np.ndarray
) -> np.ndarray:
    """Rejects further valid rows of a user; returns all users seen."""
    good = np.flatnonzero(reasons == "")
    ids = _numbers(batch["user_id"])[good]
    distinct, first = np.unique(ids, return_index=True)
    place = np.asarray(np.searchsorted(seen, distinct))
    new = np.append(seen, 0)[place] != distinct
    new |= place == len(seen)
    repeated = np.ones(len(good), bool)
    repeated[first[new]] = False
    reasons[good[repeated]] = "duplicate user row"
    return np.insert(seen, place[new], distinct[new])


def _reasons(batch: pa.RecordBatch, vectors: Mapping[str, int]) -> np.ndarray:
    """Returns why each row cannot be loaded, str (N,), empty if it can.

    `vectors` maps names of vectors to their lengths.
    """
    import pyarrow as pa

    ids, items = batch["user_id"], batch["behavior_item_ids"]
    lists = ["behavior_item_ids", *_behaviors(batch)]
    whole = [n for n in lists if pa.types.is_integer(batch[n].type.value_type)]

    def is_null(column: pa.Array) -> np.ndarray:
        return column.is_null().to_numpy(zero_copy_only=False)

    def has_null(column: pa.Array) -> np.ndarray:
        if not column.flatten().null_count:
            return np.zeros(len(column), bool)
        values = (value.values for value in column)
        return np.array([bool(one and one.null_count) for one in values])

    def has_infinity(column: pa.Array) -> np.ndarray:
        lists = pa.types.is_list(column.type)
        values = column.flatten() if lists else column
        infinite = np.isinf(values.to_numpy(zero_copy_only=False))
        rows = np.arange(len(column))
        rows = np.repeat(rows, _lengths(column)) if lists else rows
        return np.isin(np.arange(len(column)), rows[infinite])

    floats = [
        field.name
        for field in batch.schema
        if pa.types.is_floating(getattr(field.type, "value_type", field.type))
    ]
    reasons = np.full(len(ids), "", object)
    for reason, rows in (
        ("user_id is null", is_null(ids)),
        ("user_id is 0, which means padding", _numbers(ids) == 0),
        *((f"{name} is null", is_null(batch[name])) for name in lists),
        *(
            (
                f"behavior_item_ids and {name} differ in length",
                _lengths(items) != _lengths(batch[name]),
            )
            for name in lists[1:]
        ),
        *(("a behavior is null", has_null(batch[name])) for name in whole),
        *(
            (
                f"{name} does not have {length} numbers",
                (_lengths(batch[name]) != length) & ~is_null(batch[name]),
            )
            for name, length in vectors.items()
            if name in batch.schema.names
        ),
        *(
            (f"{name} is infinite", has_infinity(batch[name]))
            for name in floats
        ),
    ):
        reasons[rows & (reasons == "")] = reason
    return reasons


def _write_rejected(
    folder: pathlib.Path,
    first_row: int,
    batch: pa.RecordBatch,
    reasons: np.ndarray,
) -> None:
    """Writes the rejected rows of a batch before the others are committed."""
    rows = np.flatnonzero(reasons != "")
    if not len(rows):
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_batches([batch]).take(rows)
    table = table.append_column(
        "reason", pa.array(reasons[rows].tolist(), pa.string())
    )
    path = folder / f"part-{first_row:012d}.parquet"
    with appearing(path) as temporary:
        pq.write_table(table, temporary)
