"""Steps of a Beam pipeline over Arrow batches: counts and rejected rows.

This is the common part of the joins. Rows leave a step by the output ``rows``
to the next step, or by ``rejected`` with a reason. Counts leave it by the
output ``counts``: they are data and not metrics of Beam, which some runners do
not have, and others add up again when they repeat a step.
"""

from __future__ import annotations

import collections
import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa

from muse_tools.datasets import parquet_files, raw_tables, table_writer
from muse_tools.datasets.object_paths import path_of
from tfx_pipeline.transforms import arrow_batches, shuffle_files

# Column with the position in the table, since a shuffle loses the row order.
POSITION = "position"

_COUNTS = "counts"

Sent = tuple[str, Any, pa.RecordBatch | int]
"""Output, key and rows that a step sends; or a name and an amount to count."""


class Left(NamedTuple):
    """What a join leaves besides its files.

    ``rejected`` has pairs of a table's name and rows with their ``reason``,
    ``counts`` pairs of a name and an amount to add.
    """

    rejected: beam.PCollection
    counts: beam.PCollection


def left(*parts: Any) -> Left:
    """Collects what several steps leave, from their outputs."""
    return Left(
        tuple(part.rejected for part in parts) | "Rejected" >> beam.Flatten(),
        tuple(part.counts for part in parts) | "Counts" >> beam.Flatten(),
    )


_PARTITION_BYTES = 64 << 20
_MIN_PARTITIONS, _MAX_PARTITIONS = 4, 1024


def partitions_for(size: int) -> int:
    """Returns a number of partitions, from 4 to 1,024, for a number of bytes.

    A partition has about 64 MB in memory, unless it reaches one of the limits.
    """
    wanted = -(-size // _PARTITION_BYTES)
    return min(max(_MIN_PARTITIONS, wanted), _MAX_PARTITIONS)


def shard_path(prefix: str, shard: int, shards: int) -> str:
    """Returns the path of the file of one partition of a split."""
    return f"{prefix}-{shard:05d}-of-{shards:05d}.gz"


def shards(
    pipeline: beam.Pipeline, splits: Iterable[str], count: int
) -> beam.PCollection:
    """Returns the key of every file, so that those without rows are written."""
    return (
        pipeline
        | "Shards"
        >> beam.Create([(split, n) for split in splits for n in range(count)])
        | "ShardKeys" >> beam.Map(lambda shard: (shard, None))
    )


@dataclasses.dataclass(frozen=True)
class RowGroup:
    """A row group of a Parquet file, the unit of reading.

    ``split`` may be empty; ``first_row`` is the position of the first row in
    the table and split.
    """

    table: str
    split: str
    path: str
    index: int
    first_row: int
    rows_per_batch: int


def row_groups(
    table: str,
    schema: pa.Schema,
    paths_of_split: Mapping[str, Sequence[str]],
) -> list[RowGroup]:
    """Returns the row groups of a table's files."""
    groups = []
    for split, paths in paths_of_split.items():
        first_row = 0
        for path in paths:
            with parquet_files.open_file(table, path_of(path)) as file:
                metadata = file.metadata
            rows = parquet_files.rows_per_batch(
                metadata, raw_tables.in_files(schema)
            )
            for index in range(metadata.num_row_groups):
                groups.append(
                    RowGroup(table, split, str(path), index, first_row, rows)
                )
                first_row += metadata.row_group(index).num_rows
    return groups


def read_row_group(
    group: RowGroup, schema: pa.Schema
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Streams a row group: positions of first rows, and batches."""
    position, path = group.first_row, path_of(group.path)
    with parquet_files.open_file(group.table, path) as file:
        for batch in raw_tables.read_rows(
            file, path, schema, group.rows_per_batch, [group.index], group.table
        ):
            yield position, batch
            position += batch.num_rows


class Step(beam.DoFn):
    """A step of a join, whose output may go through a shuffle file."""

    def __init__(self, shuffle_dir: str | None) -> None:
        self._shuffle_dir = shuffle_dir

    def send(self, element: Any) -> Iterator[Sent]:
        """Yields output, key and rows for the next step."""
        raise NotImplementedError

    def process(self, element: Any) -> Iterator:
        """Tags what `send` yields with its output; adds up its counts."""
        counts: collections.Counter[str] = collections.Counter()
        with shuffle_files.ShuffleFile(self._shuffle_dir) as file:
            for output, key, sent in self.send(element):
                if isinstance(sent, pa.RecordBatch):
                    yield from _tagged(file.put((output, key), sent))
                else:
                    counts[key] += sent
            yield from _tagged(file.flush())
        for found in counts.items():
            yield beam.pvalue.TaggedOutput(_COUNTS, found)


def _tagged(sent: Iterator) -> Iterator[beam.pvalue.TaggedOutput]:
    for (output, key), batch in sent:
        yield beam.pvalue.TaggedOutput(output, (key, batch))


def step(step: Step) -> beam.ParDo:
    """Returns a step as a transform with outputs."""
    return beam.ParDo(step).with_outputs("rows", "events", "rejected", _COUNTS)


def count(name: str, amount: int) -> Iterator[Sent]:
    """Yields an amount to add to a count of the run."""
    if amount:
        yield _COUNTS, name, int(amount)


def reject(
    table: str, rows: pa.RecordBatch, reason: str | None = None
) -> Iterator[Sent]:
    """Yields rows that cannot be used, and counts them by their ``reason``."""
    if not rows.num_rows:
        return
    if reason is not None:
        reasons = pa.array([reason] * rows.num_rows, pa.string())
        rows = arrow_batches.append(rows, reason=reasons)
    for found in (
        arrow_batches.column(rows, "reason").value_counts().to_pylist()
    ):
        yield from count(f"rejected/{table}/{found['values']}", found["counts"])
    yield "rejected", table, rows


def write_rejected(
    group: tuple[str, Iterable[shuffle_files.Sent]], folder: str
) -> None:
    """Writes the rejected rows of a table in the order of the table."""
    table, batches = group
    # Rows rejected at different points of the join carry different columns.
    by_schema: dict[tuple[str, ...], list[pa.RecordBatch]] = {}
    for batch in shuffle_files.read(batches):
        by_schema.setdefault(tuple(batch.schema.names), []).append(batch)
    for number, names in enumerate(sorted(by_schema)):
        rows = pa.Table.from_batches(by_schema[names])
        table_writer.write_table(
            pathlib.Path(folder) / f"{table}-{number}.parquet",
            rows.sort_by(POSITION),
        )
