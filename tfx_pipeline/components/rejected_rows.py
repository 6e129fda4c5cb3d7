"""Writes the rows that components could not use, and their counts."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import pathlib
from collections.abc import Mapping

import apache_beam as beam
import pyarrow as pa
from absl import logging

from muse_tools.datasets import table_writer, validation
from muse_tools.datasets.errors import DataError
from serving.files import write_json
from tfx_pipeline.transforms import steps

COUNTS_FILE = "counts.json"


def write_counts(folder: pathlib.Path, counts: Mapping[str, int]) -> None:
    """Writes row counts to ``counts.json`` and to the log."""
    write_json(folder / COUNTS_FILE, counts, sort_keys=True)
    logging.info("Row counts: %s", dict(counts))


def write_left(left: steps.Left, folder: pathlib.Path) -> None:
    """Adds steps that write the rejected rows and the counts of a join."""
    _ = (
        left.rejected
        | "GroupRejected" >> beam.GroupByKey()
        | "WriteRejected" >> beam.Map(steps.write_rejected, str(folder))
    )
    _ = (
        left.counts
        | "AddCounts" >> beam.CombinePerKey(sum)
        | "AllCounts" >> beam.combiners.ToDict()
        | "WriteCounts" >> beam.Map(lambda found: write_counts(folder, found))
    )


def read_counts(folder: pathlib.Path) -> dict[str, int]:
    """Returns what `write_counts` wrote."""
    text = (folder / COUNTS_FILE).read_text(encoding="utf-8")
    found: dict[str, int] = json.loads(text)
    return found


class RejectedRows(contextlib.ExitStack):
    """Writes rejected rows and counts them by reason.

    Rows of a table are written to ``<table>-<number>.parquet``, with one file
    for each set of columns. A file is created with its first row.
    """

    def __init__(
        self, folder: pathlib.Path, counts: collections.Counter[str]
    ) -> None:
        super().__init__()
        self._folder = folder
        self._counts = counts
        self._files: dict[str, dict[pa.Schema, table_writer.TableWriter]] = {}

    def write(self, table: str, rows: pa.RecordBatch) -> None:
        """Appends rows with a column ``reason``."""
        if not rows.num_rows:
            return
        files = self._files.setdefault(table, {})
        if rows.schema not in files:
            path = self._folder / f"{table}-{len(files)}.parquet"
            files[rows.schema] = self.enter_context(
                table_writer.TableWriter(path, rows.schema)
            )
        files[rows.schema].write(rows)
        for reason in rows[validation.REASON_COLUMN].value_counts().to_pylist():
            key = f"rejected/{table}/{reason['values']}"
            self._counts[key] += reason["counts"]


def check(
    counts: Mapping[str, int],
    *,
    label: str,
    rows: str,
    table: str,
    used: int,
    limit: float,
    option: str,
    rejected_dir: str | os.PathLike[str],
) -> None:
    """Checks that all rows of a table are counted and few were rejected.

    ``rows`` is the plural word for a row in messages. ``limit`` is the largest
    allowed share of rejected rows; the configuration key ``option`` sets it.

    Raises:
        DataError: ``LOST_ROWS``, ``EMPTY_SPLIT`` or ``TOO_MANY_REJECTED``.
    """
    read = counts.get(f"read/{table}", 0)
    prefix = f"rejected/{table}/"
    reasons = {
        key.removeprefix(prefix): value
        for key, value in counts.items()
        if key.startswith(prefix)
    }
    rejected = sum(reasons.values())
    if read != used + rejected:
        raise DataError(
            "LOST_ROWS",
            f"{label}: {read:,} {rows} read, {used:,} joined and "
            f"{rejected:,} rejected do not add up.",
            "this is a defect of the join; please report it.",
        )
    worst = ", ".join(
        f"{value:,} {reason}"
        for reason, value in sorted(reasons.items(), key=lambda item: -item[1])
    )
    if not used:
        raise DataError(
            "EMPTY_SPLIT",
            f"{label}: none of {read:,} {rows} could be joined"
            f"{': ' + worst if worst else ''}.",
            "check that the tables belong together with `muse data inspect`.",
        )
    if rejected > limit * read:
        raise DataError(
            "TOO_MANY_REJECTED",
            f"{label}: {rejected:,} of {read:,} {rows} rejected ({worst}); at "
            f"most {limit:.2%} allowed.",
            f"{validation.hint_for(reasons)} The rows are in {rejected_dir}; "
            f"if they may be missing, raise {option}.",
        )
