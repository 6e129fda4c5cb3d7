"""Counts rejected rows by table, column and reason, with examples."""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from muse_tools.datasets import (
    decoding,
    feature_values,
    raw_tables,
    reasons,
    row_rules,
    validation,
)
from muse_tools.datasets.arrow_lists import Ints

_LENGTHS = (
    reasons.VECTOR_LENGTH,
    reasons.EMBEDDING_LENGTH,
    reasons.UNEQUAL_LISTS,
)
_KEYS = {
    reasons.DUPLICATE_USER: raw_tables.USER_ID,
    reasons.DUPLICATE_ITEM: raw_tables.ITEM_ID,
}


@dataclasses.dataclass
class _Found:
    rows: int
    example: str


class Rejections:
    """Rejected rows, and rows whose lists were cut to ``many`` values."""

    def __init__(self, schemas: Mapping[str, pa.Schema]) -> None:
        self._schemas = schemas
        self._found: dict[tuple[str, str, str], _Found] = {}
        self._longer: dict[tuple[str, str], int] = {}

    def add(self, table: str, rejected: pa.RecordBatch) -> None:
        """Adds rows that were rejected because of their own values."""
        if not rejected.num_rows:
            return
        of_rows = np.array(rejected[validation.REASON_COLUMN].to_pylist())
        for reason, column in _KEYS.items():
            rows = np.flatnonzero(of_rows == reason)
            self._add(table, reason, column, rejected, rows)
        for one in row_rules.broken_rows(table, rejected):
            # Only the first of several wrong columns is counted.
            rows = np.flatnonzero(one.rows & (of_rows == one.reason))
            of_rows[rows] = ""
            self._add(table, one.reason, one.column, rejected, rows)

    def count(self, table: str, reason: str, column: str, ids: Ints) -> None:
        """Adds rows that do not join, given their ids, int64 (N,)."""
        if len(ids):
            self._count(table, reason, column, len(ids), str(ids[0]))

    def count_longer(self, table: str, batch: pa.RecordBatch) -> None:
        """Counts rows whose lists have more than ``many`` values."""
        for name, rows in feature_values.longer(batch).items():
            key = (table, name)
            self._longer[key] = self._longer.get(key, 0) + rows

    def show_texts(self, tables: raw_tables.RawTables) -> None:
        """Shows the texts of hashed keys among the examples."""
        for (table, _, column), found in self._found.items():
            field = self._schemas[table].field(column)
            is_id = found.example.removeprefix("-").isdigit()
            if is_id and decoding.TEXT in (field.metadata or {}):
                found.example = tables[table].text_of(field, int(found.example))

    def _add(
        self,
        table: str,
        reason: str,
        column: str,
        batch: pa.RecordBatch,
        rows: Ints,
    ) -> None:
        if len(rows):
            value = batch[column][int(rows[0])].as_py()
            shown = "null" if value is None else reprlib.repr(value)
            if reason in _LENGTHS and value is not None:
                shown = f"{len(value)} values"
            self._count(table, reason, column, len(rows), shown)

    def _count(
        self, table: str, reason: str, column: str, rows: int, example: str
    ) -> None:
        key = (table, reason, column)
        found = self._found.setdefault(key, _Found(0, example))
        found.rows += rows

    def _column(self, table: str, name: str) -> str:
        return raw_tables.describe_column(self._schemas[table].field(name))

    def notes(self) -> Iterator[str]:
        """Yields a note for each table, column and reason."""
        for (table, reason, column), found in self._found.items():
            hint = reasons.hint_for({reason: found.rows})
            yield (
                f"{table}, column {self._column(table, column)}: "
                f"{found.rows:,} rows are rejected: {reason}, such as "
                f"{found.example}. Fix: {hint}"
            )
        for (table, name), rows in self._longer.items():
            if rows:
                field = self._schemas[table].field(name)
                yield (
                    f"{table}, column {self._column(table, name)}: {rows:,} "
                    f"rows have more values than "
                    f"{feature_values.many_of(field)}; only the first ones are "
                    "used. To use more, raise many."
                )

    def as_json(self) -> list[dict[str, Any]]:
        """Returns the counts of rejected rows as JSON values."""
        return [
            {
                "table": table,
                "column": raw_tables.column_of(
                    self._schemas[table].field(column)
                ),
                "name": column,
                "reason": reason,
                "rows": found.rows,
                "example": found.example,
            }
            for (table, reason, column), found in self._found.items()
        ]
