"""Reads raw tables for ``muse data inspect`` and collects its findings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa

from muse_tools.datasets import decoding, feature_values, raw_tables, validation
from muse_tools.datasets.dataset_dir import Progress
from muse_tools.datasets.errors import DataError
from muse_tools.datasets.numberings import Numberings
from muse_tools.datasets.rejections import Rejections
from muse_tools.datasets.validation import RowCounts, UniqueKeys

_SEPARATORS = ";|, "


class Batch(NamedTuple):
    """Rows as read, and the good and rejected ones among them."""

    read: pa.RecordBatch
    good: pa.RecordBatch
    rejected: pa.RecordBatch


class Reading:
    """The readable tables, the progress of reading, and the findings."""

    def __init__(
        self, tables: raw_tables.RawTables, progress: Progress
    ) -> None:
        self.tables = tables
        self.progress = progress
        self.problems: list[DataError] = []
        self.notes: list[str] = []
        self.rejections = Rejections(raw_tables.schemas(tables.declared))
        self.numberings = Numberings(raw_tables.schemas(tables.declared))
        self._readable: set[str] = set()
        self._total_rows = 1
        self._rows_read = 0

    def admit(self, name: str, rows: int) -> None:
        """Adds a table whose schema is correct."""
        self._readable.add(name)
        # User ids are read before the histories.
        self._total_rows += rows * (2 if name.endswith("user_features") else 1)

    def can_read(self, name: str) -> bool:
        """Returns whether a table was admitted and is not damaged."""
        return name in self._readable

    def needs_users(self) -> bool:
        """Returns whether every impression needs a row of its user."""
        declared = self.tables.declared
        return declared.log is None or bool(declared.features.user)

    def unused_columns(
        self, table: raw_tables.RawTable, found: pa.Schema
    ) -> list[str]:
        """Returns the unused columns of a table, and adds a note about them."""
        used = [*raw_tables.in_files(table.schema).names]
        used.append(self.tables.declared.text)
        unused = [one for one in found.names if one not in used]
        if unused:
            self.notes.append(
                f"{table.name}: columns that are not used: {', '.join(unused)}."
            )
        return unused

    def check_separators(
        self, table: raw_tables.RawTable, found: pa.Schema
    ) -> None:
        """Notes separators that do not occur in the first rows of a table."""
        for field in table.schema:
            column = raw_tables.column_of(field)
            own = decoding.separator(field, found.field(column).type)
            if not own:
                continue
            texts = [t for t in next(table.stored(field)).to_pylist() if t]
            often = [
                other
                for other in _SEPARATORS
                if sum(other in text for text in texts) > len(texts) / 2
            ]
            if often and not any(own in text for text in texts):
                self.notes.append(
                    f"{table.name}, column "
                    f"{raw_tables.describe_column(field)}: none of the first "
                    f"{len(texts):,} values contains the separator {own!r}, "
                    f"but most contain {often[0]!r}. Fix: declare separator: "
                    f'"{often[0]}" if it stands between values.'
                )

    def batches(
        self,
        name: str,
        rows: RowCounts,
        unique: UniqueKeys | None = None,
        columns: list[str] | None = None,
        limit: int = 0,
    ) -> Iterator[Batch]:
        """Streams and counts `limit` rows of a table; 0 for all.

        A damaged file ends the stream and becomes a problem.
        """
        try:
            for batch in self.tables[name].iter_batches(columns):
                batch = batch.slice(0, limit - rows.read) if limit else batch
                steps = [validation.validate(name, batch)]
                if unique is not None:
                    steps.append(unique.check(steps[0].good))
                good = rows.add(*steps)
                if columns is None:  # Otherwise a second pass counts them.
                    for step in steps:
                        self.rejections.add(name, step.rejected)
                    self.rejections.count_longer(name, batch)
                yield Batch(batch, good, steps[0].rejected)
                self._rows_read += batch.num_rows
                self.progress(
                    f"reading {name}",
                    min(1.0, self._rows_read / self._total_rows),
                )
                if limit and rows.read >= limit:
                    break
        except DataError as error:
            self._readable.discard(name)
            self.problems.append(error)

    def check_usable(
        self, name: str, rows: RowCounts, received: str = ""
    ) -> None:
        """Adds a problem if no row of a table was usable."""
        try:
            rows.check_usable(name, received)
        except DataError as error:
            self.problems.append(error)

    def count_missing(self, missing: dict[str, int], batch: Batch) -> None:
        """Counts missing features, and checks whether ids are numbered."""
        for name in missing:
            missing[name] += feature_values.missing(batch.good[name])
            self.numberings.add(name, batch.read)
