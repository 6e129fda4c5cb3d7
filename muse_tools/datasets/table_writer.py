"""Writes Parquet files atomically."""

from __future__ import annotations

import contextlib
import os
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq

from muse_tools.datasets.raw_tables import conform, in_files
from serving.files import appearing


class TableWriter:
    """Writes one Parquet file atomically: completely or not at all.

    Its columns have the names that the metadata of `schema` give them.
    Rows go to a hidden temporary file, which replaces the target when the
    ``with`` block ends without an error. A row group ends when its rows take
    about `row_group_bytes` in memory.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        schema: pa.Schema,
        row_group_bytes: int = 64 << 20,
    ) -> None:
        self.path = pathlib.Path(path)
        self.schema = schema
        self.rows = 0
        self._row_group_bytes = row_group_bytes
        self._pending: list[pa.RecordBatch] = []
        self._pending_bytes = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> TableWriter:
        self._writer = self._stack.enter_context(
            pq.ParquetWriter(
                self._stack.enter_context(appearing(self.path)),
                in_files(self.schema),
                compression="snappy",
                use_compliant_nested_type=True,
            )
        )
        return self

    def write(self, rows: pa.RecordBatch | pa.Table) -> None:
        """Appends rows; their columns are matched by name."""
        batches = rows.to_batches() if isinstance(rows, pa.Table) else [rows]
        for batch in batches:
            if not batch.num_rows:
                continue
            batch = conform(batch, self.schema)
            self._pending.append(batch)
            self._pending_bytes += batch.nbytes
            self.rows += batch.num_rows
            if self._pending_bytes >= self._row_group_bytes:
                self._flush()

    def _flush(self) -> None:
        if self._pending:
            table = pa.Table.from_batches(self._pending, self.schema)
            table = table.rename_columns(in_files(self.schema).names)
            self._writer.write_table(table, row_group_size=table.num_rows)
            self._pending, self._pending_bytes = [], 0

    def __exit__(
        self, kind: object, error: BaseException | None, trace: object
    ) -> None:
        with self._stack:
            if error:
                raise error
            self._flush()


def write_table(
    path: str | os.PathLike[str], rows: pa.Table | pa.RecordBatch
) -> None:
    """Writes one Parquet file atomically with the rows' own schema."""
    with TableWriter(path, rows.schema) as writer:
        writer.write(rows)
