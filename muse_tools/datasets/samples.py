"""Reads the first rows of files and infers the kinds of their columns."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from muse_tools.datasets import (
    casting,
    csv_rows,
    json_rows,
    parquet_files,
    text_tables,
)
from muse_tools.datasets.arrow_lists import list_lengths

ROWS = 50_000
"""Number of rows that are read from each table."""

_PARQUET = (".parquet", ".parq", ".pq")
_OFFSET = re.compile(r"\d:\d\d(?:\.\d+)?(Z|[+-]\d\d:?\d\d)\b")
_SEPARATORS = "|;, "


@dataclasses.dataclass(frozen=True)
class Column:
    """A column, described by its first rows."""

    name: str
    values: pa.ChunkedArray
    kind: str
    """``int``, ``float``, ``text``, ``bool``, ``moment``, ``empty``, or
    ``other``; for lists, the kind of their values."""

    lengths: np.ndarray | None = None
    """Lengths of the lists, including lists that are stored as text."""

    separator: str = ""
    """Separates the values of lists that are stored as text."""

    distinct: int = 0
    """Number of distinct values; for lists, of the values inside."""

    @property
    def share(self) -> float:
        """Distinct values divided by rows that are not null."""
        given = len(self.values) - self.values.null_count
        return self.distinct / max(1, given)

    @property
    def is_list(self) -> bool:
        """Whether the rows hold lists."""
        return self.lengths is not None

    @property
    def width(self) -> int:
        """The length of all lists, or 0 if they differ."""
        if self.lengths is None or not len(self.lengths):
            return 0
        same = (self.lengths == self.lengths[0]).all()
        return int(self.lengths[0]) if same else 0

    def span(self) -> tuple[Any, Any] | None:
        """Returns the smallest and the largest value; None if all are null."""
        found = pc.min_max(self.values).as_py()
        return None if found["min"] is None else (found["min"], found["max"])


@dataclasses.dataclass(frozen=True)
class Sample:
    """The first rows of a table in a folder, and the name of its files."""

    name: str
    columns: dict[str, Column]
    rows: int
    is_whole: bool
    offset: str = ""
    """The offset from UTC of the first times in a text, if they share one."""


def find(root: pathlib.Path) -> list[Sample]:
    """Returns the tables in a folder: files, shards and folders of files."""
    groups: dict[str, list[pathlib.Path]] = {}
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        if path.name.startswith((".", "_")):
            continue
        if path.is_dir():
            files = [p for p in parquet_files.data_files(path) if _is_table(p)]
            if files and path.name != "raw":
                groups[path.name] = files
        elif _is_table(path):
            stem = path.name[: len(path.name) - len(_ending(path))]
            shards = re.sub(r"-\d+(-of-\d+)?$", "", stem)
            groups.setdefault(shards, []).append(path)
    return [_sample(name, paths) for name, paths in groups.items()]


def _ending(path: pathlib.Path) -> str:
    name = path.name.lower()
    known = (e for e in _PARQUET if name.endswith(e))
    return text_tables.ending_of(path) or next(known, "")


def _is_table(path: pathlib.Path) -> bool:
    return bool(_ending(path))


def _sample(name: str, paths: list[pathlib.Path]) -> Sample:
    path, offset = paths[0], ""
    kind = text_tables.ending_of(path)
    if not kind:
        with parquet_files.open_file(name, path) as file:
            schema = parquet_files.schema_of(file, path)
            batches = parquet_files.iter_batches(
                file, path, schema.names, min(ROWS, 4096)
            )
            first = [*itertools.islice(batches, ROWS // 4096)]
            total = file.metadata.num_rows
        table = pa.Table.from_batches(first) if first else schema.empty_table()
        whole = table.num_rows == total
    else:
        rows = json_rows if kind.startswith(".jsonl") else csv_rows
        with text_tables.reading(path):
            table, whole = rows.sample(path, ROWS)
            offset = _offset(path)
    columns = {one: _column(one, table[one]) for one in table.column_names}
    whole = whole and len(paths) == 1
    return Sample(name, columns, len(table), whole, offset)


def _offset(path: pathlib.Path) -> str:
    with csv_rows.open_text(path) as file:
        found = {*_OFFSET.findall(file.read(1 << 16))}
    return found.pop() if len(found) == 1 else ""


def _kind(kind: pa.DataType) -> str:
    types = pa.types
    for name, holds in {
        "int": types.is_integer(kind),
        "float": types.is_floating(kind) or types.is_decimal(kind),
        "text": casting.is_text(kind),
        "bool": types.is_boolean(kind),
        "moment": types.is_timestamp(kind) or types.is_date(kind),
        "empty": types.is_null(kind),
    }.items():
        if holds:
            return name
    return "other"


def _column(name: str, values: pa.ChunkedArray) -> Column:
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    kind = _kind(casting.leaf(values.type))
    if casting.is_list(values.type):
        given = values.drop_null().combine_chunks()
        given = given if isinstance(given, pa.Array) else given.chunk(0)
        distinct = _distinct(given.flatten(), kind)
        return Column(name, values, kind, list_lengths(given), "", distinct)
    if kind == "text" and (found := _as_list(name, values)):
        return found
    return Column(name, values, kind, distinct=_distinct(values, kind))


def _distinct(values: pa.Array | pa.ChunkedArray, kind: str) -> int:
    if kind in {"other", "empty"}:
        return 0
    return int(pc.count_distinct(values).as_py())


def _as_list(name: str, values: pa.ChunkedArray) -> Column | None:
    """Returns a column of lists in text form, such as ``a|b``, or None."""
    texts = [text for text in values.to_pylist() if text]
    for separator in _SEPARATORS:
        split = [text.split(separator) for text in texts]
        if sum(len(one) > 1 for one in split) < max(2, len(texts) / 20):
            continue
        parts = [part.strip() for one in split for part in one if part.strip()]
        numbers = _numbers(parts)
        distinct = len(set(parts))
        # Words of titles and sentences are many; categories are few.
        if not numbers and (separator in ", " or distinct > len(parts) / 4):
            continue
        lengths = np.array([len(one) for one in split])
        kind = numbers or "text"
        return Column(name, values, kind, lengths, separator, distinct)
    return None


def _numbers(parts: list[str]) -> str:
    try:
        np.array(parts).astype(np.int64)
        return "int"
    except (ValueError, OverflowError):
        pass
    try:
        np.array(parts).astype(np.float64)
        return "float"
    except ValueError:
        return ""
