"""What is in a directory of raw tables: one streaming pass over each table.

Problems (a missing table or column, a wrong type, an unreadable or empty
file, no usable row, no click, no impression that joins) mean that the pipeline
cannot run. Rejected rows, impressions that do not join, columns that are not
read and ids numbered from 0 are reported, but they are no problems.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from muse_tools.datasets import (
    dataset_dir,
    raw_tables,
    search_tables,
    validation,
)
from muse_tools.datasets.arrow_lists import list_offsets, list_values, values_of
from muse_tools.datasets.errors import DataError
from muse_tools.datasets.inspect_search import inspect_search

__all__ = ["DEFAULT_MAX_USERS", "inspect"]

DEFAULT_MAX_USERS = 200_000
"""User rows per table whose histories are read by default."""

_QUANTILES = {
    "min": 0.0,
    "p10": 0.1,
    "p50": 0.5,
    "p90": 0.9,
    "p99": 0.99,
    "max": 1.0,
}
_SCALE = 127
_MOST_NUMBERED = 1 << 22

_NUMBERED = {
    raw_tables.USER_ID: ("a user id", [raw_tables.USER_ID]),
    raw_tables.ITEM_ID: (
        "an item id",
        [raw_tables.ITEM_ID, raw_tables.BEHAVIOR_ITEM_IDS],
    ),
    raw_tables.ITEM_CATEGORY: (
        "a category",
        [raw_tables.ITEM_CATEGORY, raw_tables.BEHAVIOR_CATEGORY_IDS],
    ),
    **{
        code: (raw_tables.describe_column(code), [code])
        for code in (
            raw_tables.ITEM_CITY,
            raw_tables.ITEM_PROVINCE,
            *raw_tables.USER_PROFILE,
        )
    },
}
"""Column to what its ids are, and the columns that hold the same ids."""

Progress = Callable[[str, float], None]
"""Called with a stage's name and the share of all rows read (0 to 1)."""


@dataclasses.dataclass
class _Rows:
    """Counts of one table's rows."""

    read: int = 0
    accepted: int = 0
    rejected: collections.Counter[str] = dataclasses.field(
        default_factory=collections.Counter
    )

    def add(self, *steps: validation.Validated) -> pa.RecordBatch:
        """Counts a batch that went through one rule after the other."""
        self.read += steps[0].good.num_rows + steps[0].rejected.num_rows
        for step in steps:
            self.rejected.update(step.counts)
        self.accepted += steps[-1].good.num_rows
        return steps[-1].good

    def to_dict(self) -> dict[str, Any]:
        """Returns the counts as JSON values."""
        return {
            "read": self.read,
            "accepted": self.accepted,
            "rejected": dict(sorted(self.rejected.items())),
        }


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None


def _quantiles(values: npt.NDArray[Any]) -> dict[str, float] | None:
    if not len(values):
        return None
    found = {
        name: round(float(np.quantile(values, q)), 4)
        for name, q in _QUANTILES.items()
    }
    return {**found, "mean": round(float(np.mean(values)), 4)}


def _ids(batch: pa.RecordBatch, code: str) -> npt.NDArray[np.int64]:
    column = batch.column(batch.schema.get_field_index(code))
    return values_of(column.drop_null())


def _columns(table: raw_tables.RawTable) -> dict[str, Any]:
    """Columns as found in the first readable file, with their names."""
    try:
        schema = table.file_schema()
    except DataError:
        return {}
    return {
        field.name: {
            "name": raw_tables.NAME_OF_CODE.get(field.name),
            "type": raw_tables.describe_type(field.type),
        }
        for field in schema
    }


class _Numbering:
    """Tells whether ids are 0, 1, 2, … as pd.factorize gives them.

    Args:
        name: What the ids are, for people.
        where: Columns that hold them.
    """

    def __init__(self, name: str, *where: str) -> None:
        self._name = name
        self._where = where
        self._seen: npt.NDArray[np.bool_] | None = np.zeros(0, bool)

    def add(self, ids: npt.NDArray[np.int64]) -> None:
        """Looks at more ids."""
        if self._seen is None or not len(ids):
            return
        # pd.factorize gives -1 to what is missing.
        if ids.min() < -1 or ids.max() >= _MOST_NUMBERED:
            self._seen = None
            return
        grown = np.zeros(max(len(self._seen), int(ids.max()) + 1), bool)
        grown[: len(self._seen)] = self._seen
        grown[ids[ids >= 0]] = True
        self._seen = grown

    def notes(self) -> list[str]:
        """Returns what to tell about them, in at most one line."""
        seen = self._seen
        if seen is None or len(seen) < 2 or not seen.all():
            return []
        return [
            f"0 is in use as {self._name}: the values are 0 to "
            f"{len(seen) - 1:,} without a gap, as pd.factorize numbers them, "
            "but 0 means missing (rows with it as their key are rejected, "
            "features and histories ignore it). If 0 is a value like the "
            f"others, add 1 to all of {' and '.join(self._where)}."
        ]


class _Inspection:
    """State of one run: tables that can be read, keys, results."""

    def __init__(
        self,
        directory: str | os.PathLike[str],
        max_users: int,
        progress: Progress,
    ) -> None:
        self.directory = directory
        self.tables = raw_tables.RawTables.open(directory)
        self.max_users = max_users
        self.problems: list[DataError] = []
        self.notes: list[str] = []
        self.numberings = {
            code: _Numbering(name, *where)
            for code, (name, where) in _NUMBERED.items()
        }
        self.overview: dict[str, Any] = {}
        self.sections: dict[str, Any] = {}
        self.tell = progress
        self._total_rows = 1
        self._rows_read = 0
        self._readable: set[str] = set()

    def check_schemas(self) -> None:
        """Looks at presence, footers and schemas of all tables."""
        for name in raw_tables.SCHEMAS:
            if name == raw_tables.EMBEDDINGS and name not in self.tables:
                self._check_vectors()
                continue
            try:
                table = self.tables[name]
            except DataError as error:
                self.problems.append(error)
                continue
            problems = table.problems()
            rows = None
            if not any(p.code == "UNREADABLE_FILE" for p in problems):
                rows = table.num_rows()
                if rows == 0:
                    problems.append(raw_tables.empty_table(name))
            self.problems += problems
            columns = _columns(table)
            unused = [c for c in columns if c not in table.schema.names]
            if unused:
                self.notes.append(
                    f"{name}: columns that are not used: {', '.join(unused)}."
                )
            self.overview[name] = {
                "files": len(table.paths),
                "bytes": table.num_bytes(),
                "rows": rows,
                "columns": columns,
                "unused_columns": unused,
                "ok": not problems,
                "problems": [str(p) for p in problems],
            }
            if not problems:
                self._readable.add(name)
                passes = 2 if name.endswith("user_features") else 1
                self._total_rows += passes * (rows or 0)

    def _check_vectors(self) -> None:
        """Notes that there are no item vectors, and what else there is."""
        name, content = raw_tables.EMBEDDINGS, search_tables.ITEM_CONTENT
        found = search_tables.find_tables(self.directory)
        ways = ["learned"] if {*search_tables.TABLES} <= set(found) else []
        with contextlib.suppress(DataError):  # It is reported with the table.
            if search_tables.open_table(self.directory, content).text:
                ways.append("text_svd")
        if ways:
            self.notes.append(
                f"There is no {name}: run the pipeline with item_embeddings: "
                f"{' or '.join(ways)}, which makes vectors from {content}."
            )
            return
        self.problems.append(
            DataError(
                "MISSING_TABLE",
                f"table {name}: not found in {self.tables.root}, nor "
                f"{content} to make item vectors from.",
                f"put {name}.parquet there; or {content}.parquet with "
                "columns item_id and text, and run the pipeline with "
                "item_embeddings: text_svd.",
            )
        )

    def batches(
        self, name: str, columns: list[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Streams a table; a damaged file ends it and is a problem."""
        try:
            for batch in self.tables[name].iter_batches(columns):
                yield batch
                self._rows_read += batch.num_rows
                self.tell(
                    f"reading {name}",
                    min(1.0, self._rows_read / self._total_rows),
                )
        except DataError as error:
            self._readable.discard(name)
            self.problems.append(error)

    def can_read(self, name: str) -> bool:
        """Tells whether a table has no problem so far."""
        return name in self._readable

    def finish(self, name: str, rows: _Rows, received: str = "") -> None:
        """Notes a table of which nothing was usable, and what it held."""
        if rows.read and not rows.accepted:
            reasons = ", ".join(f"{v:,} {k}" for k, v in rows.rejected.items())
            self.problems.append(
                DataError(
                    "NO_USABLE_ROWS",
                    f"table {name}: all {rows.read:,} rows are rejected: "
                    f"{reasons}.{received}",
                    validation.hint_for(rows.rejected),
                )
            )


def _inspect_items(run: _Inspection) -> npt.NDArray[np.int64] | None:
    name = raw_tables.ITEM_FEATURES
    if not run.can_read(name):
        return None
    rows = _Rows()
    unique = validation.UniqueKeys(
        raw_tables.ITEM_ID, validation.DUPLICATE_ITEM
    )
    missing = dict.fromkeys(
        (
            raw_tables.ITEM_CATEGORY,
            raw_tables.ITEM_CITY,
            raw_tables.ITEM_PROVINCE,
        ),
        0,
    )
    for batch in run.batches(name):
        valid = validation.validate_item_features(batch)
        good = rows.add(valid, unique.check(valid.good))
        run.numberings[raw_tables.ITEM_ID].add(_ids(batch, raw_tables.ITEM_ID))
        for code in missing:
            missing[code] += int((_ids(good, code) == 0).sum())
            run.numberings[code].add(_ids(batch, code))
    run.finish(name, rows)
    run.sections["items"] = {
        **rows.to_dict(),
        "missing_values": {
            raw_tables.NAME_OF_CODE[c]: _share(n, rows.accepted)
            for c, n in missing.items()
        },
    }
    return unique.keys()


def _inspect_embeddings(run: _Inspection) -> npt.NDArray[np.int64] | None:
    name = raw_tables.EMBEDDINGS
    if not run.can_read(name):
        return None
    rows = _Rows()
    unique = validation.UniqueKeys(
        raw_tables.ITEM_ID, validation.DUPLICATE_ITEM
    )
    # Squared norms of int8 codes are small integers: a histogram of them
    # gives exact quantiles in a fixed amount of memory.
    histogram = np.zeros(raw_tables.EMBEDDING_DIM * 128**2 + 1, np.int64)
    widths: set[int] = set()
    for batch in run.batches(name):
        valid = validation.validate_embeddings(batch)
        good = rows.add(valid, unique.check(valid.good))
        wrong = valid.rejected.column(raw_tables.SCL_EMBEDDING)
        widths.update(wrong.value_lengths().drop_null().unique().to_pylist())
        column = good.column(
            good.schema.get_field_index(raw_tables.SCL_EMBEDDING)
        )
        codes = list_values(column).reshape(-1, raw_tables.EMBEDDING_DIM)
        wide = codes.astype(np.float32)
        squares = np.einsum("nd,nd->n", wide, wide).astype(np.int64)
        histogram += np.bincount(squares, minlength=len(histogram))
    widths.discard(raw_tables.EMBEDDING_DIM)
    lengths = ", ".join(map(str, sorted(widths)[:8]))
    received = f" Received: lengths {lengths}." if widths else ""
    run.finish(name, rows, received)
    if widths and rows.accepted:
        count = rows.rejected[validation.EMBEDDING_LENGTH]
        run.notes.append(
            f"{name}: in {count:,} rows {validation.EMBEDDING_LENGTH}."
            f"{received}"
        )
    run.sections["embeddings"] = {
        **rows.to_dict(),
        "dim": raw_tables.EMBEDDING_DIM,
        "scale": f"1/{_SCALE}",
        "norm": _norm_quantiles(histogram),
    }
    return unique.keys()


def _norm_quantiles(
    histogram: npt.NDArray[np.int64],
) -> dict[str, float] | None:
    """Quantiles (nearest rank) of the norms of non-zero vectors."""
    counts = histogram.copy()
    counts[0] = 0
    total = int(counts.sum())
    if not total:
        return None
    norms = np.sqrt(np.arange(len(counts))) / _SCALE
    cumulative = np.cumsum(counts)
    found = {
        name: round(
            float(norms[np.searchsorted(cumulative, max(1, q * total))]), 4
        )
        for name, q in _QUANTILES.items()
    }
    return {**found, "mean": round(float(norms @ counts / total), 4)}


def _inspect_user_keys(
    run: _Inspection, split: str
) -> tuple[npt.NDArray[np.int64] | None, int]:
    """Reads all user ids; returns the distinct ones and the repeats."""
    name = f"{split}_user_features"
    if not run.can_read(name):
        return None, 0
    unique = validation.UniqueKeys(
        raw_tables.USER_ID, validation.DUPLICATE_USER
    )
    repeats = 0
    for batch in run.batches(name, [raw_tables.USER_ID]):
        run.numberings[raw_tables.USER_ID].add(_ids(batch, raw_tables.USER_ID))
        valid = validation.validate_user_features(batch)
        repeats += unique.check(valid.good).rejected.num_rows
    return unique.keys(), repeats


def _inspect_users(
    run: _Inspection,
    split: str,
    duplicates: int,
    embedded: npt.NDArray[np.int64] | None,
) -> None:
    name = f"{split}_user_features"
    if not run.can_read(name):
        return
    rows = _Rows()
    unique = validation.UniqueKeys(
        raw_tables.USER_ID, validation.DUPLICATE_USER
    )
    lengths = []
    padding = behaviors = with_embedding = 0
    missing = dict.fromkeys(raw_tables.USER_PROFILE, 0)
    for batch in run.batches(name):
        if run.max_users:
            batch = batch.slice(0, run.max_users - rows.read)
        valid = validation.validate_user_features(batch)
        good = rows.add(valid, unique.check(valid.good))
        for code in missing:
            missing[code] += int((_ids(good, code) == 0).sum())
            run.numberings[code].add(_ids(batch, code))
        column = good.column(
            good.schema.get_field_index(raw_tables.BEHAVIOR_ITEM_IDS)
        )
        items = list_values(column)
        real = items != 0
        counted = np.r_[0, np.cumsum(real)][list_offsets(column)]
        lengths.append(np.diff(counted))
        padding += int((~real).sum())
        behaviors += int(real.sum())
        if embedded is not None:
            with_embedding += int(
                validation.contains(embedded, items[real]).sum()
            )
        if run.max_users and rows.read >= run.max_users:
            break
    run.finish(name, rows)
    all_lengths = np.concatenate(lengths) if lengths else np.zeros(0)
    run.sections.setdefault("users", {})[split] = {
        **rows.to_dict(),
        "complete": rows.read == run.overview[name]["rows"],
        "duplicate_rows": duplicates,
        "history_length": _quantiles(all_lengths),
        "empty_histories": int((all_lengths == 0).sum()),
        "behaviors": behaviors,
        "padding": padding,
        "behaviors_with_embedding": None
        if embedded is None
        else _share(with_embedding, behaviors),
        "missing_values": {
            raw_tables.NAME_OF_CODE[c]: _share(n, rows.accepted)
            for c, n in missing.items()
        },
    }


def _inspect_samples(
    run: _Inspection,
    split: str,
    users: npt.NDArray[np.int64] | None,
    items: npt.NDArray[np.int64] | None,
    embedded: npt.NDArray[np.int64] | None,
) -> None:
    name = f"{split}_samples"
    if not run.can_read(name):
        return
    rows = _Rows()
    seen_users = validation.UniqueKeys(raw_tables.USER_ID, "seen")
    seen_items = validation.UniqueKeys(raw_tables.ITEM_ID, "seen")
    clicks = with_user = with_item = with_embedding = joined = 0
    for batch in run.batches(name):
        good = rows.add(validation.validate_samples(batch))
        clicks += int(validation.clicks(good).sum(dtype=np.int64))
        user_ids = _ids(good, raw_tables.USER_ID)
        item_ids = _ids(good, raw_tables.ITEM_ID)
        seen_users.check(good)
        seen_items.check(good)
        found = np.ones(good.num_rows, bool)
        if users is not None:
            hit = validation.contains(users, user_ids)
            with_user += int(hit.sum())
            found &= hit
        if items is not None:
            hit = validation.contains(items, item_ids)
            with_item += int(hit.sum())
            found &= hit
        if embedded is not None:
            hit = validation.contains(embedded, item_ids)
            with_embedding += int(hit.sum())
        joined += int(found.sum())
    run.finish(name, rows)
    total = rows.accepted
    run.sections.setdefault("samples", {})[split] = {
        **rows.to_dict(),
        "clicks": clicks,
        "click_rate": _share(clicks, total),
        "users": len(seen_users),
        "items": len(seen_items),
        "impressions_per_user": round(total / len(seen_users), 2)
        if len(seen_users)
        else None,
        "with_user_row": None if users is None else _share(with_user, total),
        "with_item_row": None if items is None else _share(with_item, total),
        "candidates_with_embedding": None
        if embedded is None
        else _share(with_embedding, total),
        "joined": None
        if users is None or items is None
        else _share(joined, total),
    }


def _check_samples(
    samples: Mapping[str, Mapping[str, Any]],
) -> tuple[list[DataError], list[str]]:
    """Returns why nothing can be learned from them, and notes."""
    problems, notes = [], []
    for split, found in samples.items():
        joined = found["joined"]
        if not found["accepted"]:
            continue
        total = f"{found['accepted']:,} {split} impressions"
        if found["click_rate"] in (0, 1):
            some = "none" if found["clicks"] == 0 else "every one"
            problems.append(
                DataError(
                    "ONE_LABEL",
                    f"table {split}_samples: {some} of the {total} is a "
                    "click. Expected: some that are and some that are not.",
                    "write clicked and other impressions, label_0 [0, 1] and "
                    "[1, 0]; a model cannot be trained or evaluated on one "
                    "kind.",
                )
            )
        if joined == 0:
            problems.append(
                DataError(
                    "NO_JOIN",
                    f"The tables do not join: none of the {total} has both a "
                    f"user row ({found['with_user_row']:.2%} have) and an "
                    f"item row ({found['with_item_row']:.2%} have).",
                    f"write the same ids into {split}_samples, "
                    f"{split}_user_features (129_1) and item_features (205).",
                )
            )
        elif joined is not None and joined < 1:
            notes.append(
                f"{1 - joined:.4%} of the {total} do not join: user row "
                f"{found['with_user_row']:.4%}, item row "
                f"{found['with_item_row']:.4%}. The pipeline rejects and "
                "counts them."
            )
    return problems, notes


def inspect(
    directory: str | os.PathLike[str],
    max_users: int = DEFAULT_MAX_USERS,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Summarises the raw tables of a directory.

    Memory holds the distinct item and user ids (eight bytes each) and one
    batch; time grows with the rows, and `max_users` bounds the part that
    grows with the histories.

    Args:
        directory: Holds the tables or ``raw/``.
        max_users: Rows per user table whose histories are read, the first
            ones; 0 for all.
        progress: Called as the work goes on.

    Returns:
        JSON values: ``directory``, ``dataset`` (name and version of
        ``dataset.json`` where there is one), ``ok``, ``problems`` (each with
        ``code``, ``message``, ``hint``), ``notes``, ``tables``, ``samples``
        and ``users`` by split, ``items``, ``embeddings``, ``search`` (the
        optional tables that exist), ``joins`` (true, false, or None if it
        cannot be told).

    Raises:
        DataError: ``NO_DIRECTORY``, ``NO_TABLES`` or ``AMBIGUOUS_TABLE``.
    """
    if max_users < 0:
        raise ValueError(
            f"max_users: expected 0 or more. Received: {max_users}"
        )
    run = _Inspection(
        directory, max_users, progress or (lambda stage, done: None)
    )
    run.check_schemas()
    items = _inspect_items(run)
    embedded = _inspect_embeddings(run)
    for split in raw_tables.SPLITS:
        users, duplicates = _inspect_user_keys(run, split)
        _inspect_samples(run, split, users, items, embedded)
        _inspect_users(run, split, duplicates, embedded)
    search = inspect_search(directory, items, run.tell)
    run.problems += search.problems
    samples = run.sections.get("samples", {})
    unfit, join_notes = _check_samples(samples)
    run.problems += unfit
    known = [s["joined"] for s in samples.values() if s["joined"] is not None]
    made = dataset_dir.read_description(directory)
    return {
        "directory": str(run.tables.root),
        "dataset": {key: made[key] for key in ("name", "generator_version")}
        if made
        else None,
        "ok": not run.problems,
        "problems": [
            {"code": p.code, "message": p.message, "hint": p.hint}
            for p in run.problems
        ],
        "notes": [
            *join_notes,
            *run.notes,
            *(line for n in run.numberings.values() for line in n.notes()),
        ],
        "tables": run.overview,
        "samples": samples,
        "users": run.sections.get("users", {}),
        "items": run.sections.get("items"),
        "embeddings": run.sections.get("embeddings"),
        "search": search.sections,
        "joins": all(share > 0 for share in known) if known else None,
    }
