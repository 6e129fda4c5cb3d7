"""What is in a directory of raw tables: one streaming pass over each table.

Problems (a missing table or column, a wrong type, an unreadable or empty
file, no usable row, no click, no impression that joins) mean that the pipeline
cannot run. Rejected rows, impressions that do not join, columns that are not
read and ids numbered from 0 are reported, but they are no problems.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
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
from muse_tools.datasets.dataset_dir import Progress
from muse_tools.datasets.errors import DataError
from muse_tools.datasets.search_inspection import inspect_search, share
from muse_tools.datasets.validation import RowCounts, UniqueKeys

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

_Ints = npt.NDArray[np.int64]


def _quantiles(values: npt.NDArray[Any]) -> dict[str, float] | None:
    if not len(values):
        return None
    found = np.quantile(values, [*_QUANTILES.values()])
    return _rounded([*found, np.mean(values)])


def _rounded(values: Sequence[float]) -> dict[str, float]:
    """Names the quantiles and the mean."""
    names = (*_QUANTILES, "mean")
    return {n: round(float(v), 4) for n, v in zip(names, values, strict=True)}


def _ids(batch: pa.RecordBatch, code: str) -> _Ints:
    return values_of(batch[code].drop_null())


class _Numberings:
    """Returns which ids are 0, 1, 2, … as pd.factorize gives them."""

    def __init__(self) -> None:
        # None: these ids are not numbered.
        self._seen: dict[str, npt.NDArray[np.bool_] | None] = {
            code: np.zeros(0, bool) for code in _NUMBERED
        }

    def add(self, code: str, batch: pa.RecordBatch) -> None:
        seen, ids = self._seen[code], _ids(batch, code)
        if seen is None or not len(ids):
            return
        # pd.factorize gives -1 to what is missing.
        if ids.min() < -1 or ids.max() >= _MOST_NUMBERED:
            self._seen[code] = None
            return
        grown = np.zeros(max(len(seen), int(ids.max()) + 1), bool)
        grown[: len(seen)] = seen
        grown[ids[ids >= 0]] = True
        self._seen[code] = grown

    def notes(self) -> Iterator[str]:
        """Yields a line for each column that is numbered."""
        for code, seen in self._seen.items():
            if seen is None or len(seen) < 2 or not seen.all():
                continue
            name, where = _NUMBERED[code]
            yield (
                f"0 is in use as {name}: the values are 0 to "
                f"{len(seen) - 1:,} without a gap, as pd.factorize numbers "
                "them, but 0 means missing (rows with it as their key are "
                "rejected, features and histories ignore it). If 0 is a value "
                f"like the others, add 1 to all of {' and '.join(where)}."
            )


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
        self.numberings = _Numberings()
        self.overview: dict[str, Any] = {}
        self.sections: dict[str, Any] = {"samples": {}, "users": {}}
        self.tell = progress
        self._total_rows = 1
        self._rows_read = 0
        self.readable: set[str] = set()

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
            columns: dict[str, Any] = {}
            with contextlib.suppress(DataError):  # It is among the problems.
                columns = {
                    field.name: {
                        "name": raw_tables.NAME_OF_CODE.get(field.name),
                        "type": raw_tables.describe_type(field.type),
                    }
                    for field in table.file_schema()
                }
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
                self.readable.add(name)
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
            self.readable.discard(name)
            self.problems.append(error)

    def finish(self, name: str, rows: RowCounts, received: str = "") -> None:
        """Notes a table of which nothing was usable, and what it held."""
        try:
            rows.check_usable(name, received)
        except DataError as error:
            self.problems.append(error)


class _Missing:
    """Counts missing features, and looks whether ids are numbered."""

    def __init__(self, run: _Inspection, codes: Sequence[str]) -> None:
        self._numberings = run.numberings
        self._counts = dict.fromkeys(codes, 0)

    def add(self, read: pa.RecordBatch, good: pa.RecordBatch) -> None:
        for code in self._counts:
            self._counts[code] += int((_ids(good, code) == 0).sum())
            self._numberings.add(code, read)

    def shares(self, rows: int) -> dict[str, float | None]:
        return {
            raw_tables.NAME_OF_CODE[code]: share(count, rows)
            for code, count in self._counts.items()
        }


def _inspect_items(run: _Inspection) -> _Ints | None:
    name = raw_tables.ITEM_FEATURES
    if name not in run.readable:
        return None
    rows = RowCounts()
    unique = UniqueKeys(raw_tables.ITEM_ID, validation.DUPLICATE_ITEM)
    missing = _Missing(
        run,
        (
            raw_tables.ITEM_CATEGORY,
            raw_tables.ITEM_CITY,
            raw_tables.ITEM_PROVINCE,
        ),
    )
    for batch in run.batches(name):
        valid = validation.validate(name, batch)
        good = rows.add(valid, unique.check(valid.good))
        run.numberings.add(raw_tables.ITEM_ID, batch)
        missing.add(batch, good)
    run.finish(name, rows)
    run.sections["items"] = {
        **rows.to_dict(),
        "missing_values": missing.shares(rows.accepted),
    }
    return unique.keys()


def _inspect_embeddings(run: _Inspection) -> _Ints | None:
    name, dim = raw_tables.EMBEDDINGS, raw_tables.EMBEDDING_DIM
    if name not in run.readable:
        return None
    rows = RowCounts()
    unique = UniqueKeys(raw_tables.ITEM_ID, validation.DUPLICATE_ITEM)
    # Squared norms of int8 codes are small integers: a histogram of them
    # gives exact quantiles in a fixed amount of memory.
    histogram = np.zeros(dim * 128**2 + 1, np.int64)
    widths: set[int] = set()
    for batch in run.batches(name):
        valid = validation.validate(name, batch)
        good = rows.add(valid, unique.check(valid.good))
        wrong = valid.rejected[raw_tables.SCL_EMBEDDING]
        widths.update(wrong.value_lengths().drop_null().unique().to_pylist())
        codes = list_values(good[raw_tables.SCL_EMBEDDING]).reshape(-1, dim)
        wide = codes.astype(np.float32)
        squares = np.einsum("nd,nd->n", wide, wide).astype(np.int64)
        histogram += np.bincount(squares, minlength=len(histogram))
    widths.discard(dim)
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
        "dim": dim,
        "scale": f"1/{_SCALE}",
        "norm": _norm_quantiles(histogram),
    }
    return unique.keys()


def _norm_quantiles(histogram: _Ints) -> dict[str, float] | None:
    """Quantiles (nearest rank) of the norms of non-zero vectors."""
    counts = histogram.copy()
    counts[0] = 0
    total = int(counts.sum())
    if not total:
        return None
    norms = np.sqrt(np.arange(len(counts))) / _SCALE
    ranks = np.maximum(1, np.array([*_QUANTILES.values()]) * total)
    found = norms[np.searchsorted(np.cumsum(counts), ranks)]
    return _rounded([*found, norms @ counts / total])


def _inspect_user_keys(
    run: _Inspection, split: str
) -> tuple[_Ints | None, int]:
    """Reads all user ids; returns the distinct ones and the repeats."""
    name = f"{split}_user_features"
    if name not in run.readable:
        return None, 0
    unique = UniqueKeys(raw_tables.USER_ID, validation.DUPLICATE_USER)
    repeats = 0
    for batch in run.batches(name, [raw_tables.USER_ID]):
        run.numberings.add(raw_tables.USER_ID, batch)
        valid = validation.validate(name, batch)
        repeats += unique.check(valid.good).rejected.num_rows
    return unique.keys(), repeats


def _inspect_users(
    run: _Inspection, split: str, duplicates: int, embedded: _Ints | None
) -> None:
    name = f"{split}_user_features"
    if name not in run.readable:
        return
    rows = RowCounts()
    unique = UniqueKeys(raw_tables.USER_ID, validation.DUPLICATE_USER)
    lengths = [np.zeros(0, np.int64)]
    padding = behaviors = with_embedding = 0
    missing = _Missing(run, raw_tables.USER_PROFILE)
    for batch in run.batches(name):
        if run.max_users:
            batch = batch.slice(0, run.max_users - rows.read)
        valid = validation.validate(name, batch)
        good = rows.add(valid, unique.check(valid.good))
        missing.add(batch, good)
        column = good[raw_tables.BEHAVIOR_ITEM_IDS]
        items = list_values(column)
        real = items != 0
        lengths.append(np.diff(np.r_[0, np.cumsum(real)][list_offsets(column)]))
        padding += int((~real).sum())
        behaviors += int(real.sum())
        if embedded is not None:
            with_embedding += int(
                validation.contains(embedded, items[real]).sum()
            )
        if run.max_users and rows.read >= run.max_users:
            break
    run.finish(name, rows)
    all_lengths = np.concatenate(lengths)
    run.sections["users"][split] = {
        **rows.to_dict(),
        "complete": rows.read == run.overview[name]["rows"],
        "duplicate_rows": duplicates,
        "history_length": _quantiles(all_lengths),
        "empty_histories": int((all_lengths == 0).sum()),
        "behaviors": behaviors,
        "padding": padding,
        "behaviors_with_embedding": None
        if embedded is None
        else share(with_embedding, behaviors),
        "missing_values": missing.shares(rows.accepted),
    }


def _inspect_samples(
    run: _Inspection, split: str, known: Mapping[str, _Ints | None]
) -> None:
    name = f"{split}_samples"
    if name not in run.readable:
        return
    rows = RowCounts()
    seen_users = UniqueKeys(raw_tables.USER_ID, "seen")
    seen_items = UniqueKeys(raw_tables.ITEM_ID, "seen")
    hits = dict.fromkeys(known, 0)
    clicks = joined = 0
    for batch in run.batches(name):
        good = rows.add(validation.validate(name, batch))
        clicks += int(validation.clicks(good).sum(dtype=np.int64))
        ids = {
            "users": _ids(good, raw_tables.USER_ID),
            "items": _ids(good, raw_tables.ITEM_ID),
        }
        seen_users.check(good)
        seen_items.check(good)
        found = np.ones(good.num_rows, bool)
        for what, keys in known.items():
            if keys is not None:
                hit = validation.contains(keys, ids.get(what, ids["items"]))
                hits[what] += int(hit.sum())
                if what in ids:
                    found &= hit
        joined += int(found.sum())
    run.finish(name, rows)
    total = rows.accepted
    shares = {
        what: None if keys is None else share(hits[what], total)
        for what, keys in known.items()
    }
    run.sections["samples"][split] = {
        **rows.to_dict(),
        "clicks": clicks,
        "click_rate": share(clicks, total),
        "users": len(seen_users),
        "items": len(seen_items),
        "impressions_per_user": round(total / len(seen_users), 2)
        if len(seen_users)
        else None,
        "with_user_row": shares["users"],
        "with_item_row": shares["items"],
        "candidates_with_embedding": shares["embedded"],
        "joined": None
        if known["users"] is None or known["items"] is None
        else share(joined, total),
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
    """Summarizes the raw tables of a directory.

    Memory holds the distinct item and user ids (eight bytes each) and one
    batch; time grows with the rows, and `max_users` bounds the part that
    grows with the histories.
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
        known = {"users": users, "items": items, "embedded": embedded}
        _inspect_samples(run, split, known)
        _inspect_users(run, split, duplicates, embedded)
    search, search_problems = inspect_search(directory, items, run.tell)
    samples = run.sections["samples"]
    unfit, join_notes = _check_samples(samples)
    run.problems += [*search_problems, *unfit]
    joins = [s["joined"] for s in samples.values() if s["joined"] is not None]
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
            *run.numberings.notes(),
        ],
        "tables": run.overview,
        "samples": samples,
        "users": run.sections["users"],
        "items": run.sections.get("items"),
        "embeddings": run.sections.get("embeddings"),
        "search": search,
        "joins": all(one > 0 for one in joins) if joins else None,
    }
