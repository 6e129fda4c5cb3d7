"""Turns search events into ``tf.train.Example`` files.

One shuffle of Arrow batches, keyed by split and partition, mixes the events
independently of their order in the table. Texts are encoded only when a
partition is written, so that the shuffle moves texts and not their larger
vectors. Rows that cannot be used leave by the output ``rejected``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from tfx_bsl.coders import example_coder

from muse_tools.datasets import (
    search_tables,
    search_validation,
    text_features,
    validation,
)
from muse_tools.datasets.item_content import ItemContent
from tfx_pipeline import features
from tfx_pipeline.transforms import (
    arrow_batches,
    shuffle_files,
    steps,
    tfrecords,
)

# Events that are encoded at a time.
_BATCH_ROWS = 1 << 13


@dataclasses.dataclass(frozen=True)
class SearchJoin:
    """Settings of the join.

    ``widths`` are those of the queries' vector modalities. Events from
    ``first_eval_time`` on belong to the split ``eval``. All workers must share
    ``shuffle_dir``; with None, the runner shuffles the batches.
    """

    table: search_tables.SearchTable
    widths: Mapping[str, int]
    text_encoder: str
    content_dir: str
    first_eval_time: int
    shards: int
    shuffle_dir: str | None = None


def write_search_examples(
    pipeline: beam.Pipeline, join: SearchJoin, outputs: Mapping[str, str]
) -> steps.Left:
    """Checks search events and writes them as Examples."""
    table = join.table.rows
    groups = steps.row_groups(
        table.name, table.schema, {"": [str(path) for path in table.paths]}
    )
    events = (
        pipeline
        | "RowGroups" >> beam.Create(groups, reshuffle=True)
        | "Read" >> steps.step(_ReadEvents(join))
    )
    shards = steps.shards(pipeline, outputs, join.shards)
    written = (
        {"events": events.rows, "shards": shards}
        | "ByShard" >> beam.CoGroupByKey()
        | "Write" >> steps.step(_WriteEvents(join, dict(outputs)))
    )
    return steps.left(events, written)


class _ReadEvents(steps.Step):
    """Reads, checks, splits and partitions one Parquet row group."""

    def __init__(self, join: SearchJoin) -> None:
        super().__init__(join.shuffle_dir)
        self._join = join

    def setup(self) -> None:
        self._item_ids = ItemContent.open(self._join.content_dir).item_ids

    def send(self, element: steps.RowGroup) -> Iterator[steps.Sent]:
        table = self._join.table
        name = table.name
        for position, batch in steps.read_row_group(element, table.rows.schema):
            yield from steps.count(f"read/{name}", batch.num_rows)
            place = np.arange(position, position + batch.num_rows)
            batch = arrow_batches.append(
                batch, **{steps.POSITION: pa.array(place)}
            )
            good, rejected = search_validation.validate(
                table, self._join.widths, batch
            )
            yield from steps.reject(name, rejected)
            good, rejected = validation.require_keys(
                good,
                search_tables.PURCHASED_ITEM_ID,
                self._item_ids,
                search_validation.UNKNOWN_PURCHASE,
            )
            yield from steps.reject(name, rejected)
            yield from self._partition(good)

    def _partition(self, batch: pa.RecordBatch) -> Iterator[steps.Sent]:
        time = arrow_batches.numpy_column(batch, search_tables.TIME)
        late = time >= self._join.first_eval_time
        for split, chosen in (
            (features.TRAIN_SPLIT, ~late),
            (features.EVAL_SPLIT, late),
        ):
            if not chosen.any():
                continue
            rows = batch.filter(pa.array(chosen))
            for index, part in arrow_batches.partition(
                rows, search_tables.QUERY_ID, self._join.shards
            ):
                yield "rows", (split, index), part


class _WriteEvents(steps.Step):
    """Writes the Examples of one partition of a split."""

    def __init__(self, join: SearchJoin, outputs: Mapping[str, str]) -> None:
        super().__init__(join.shuffle_dir)
        self._join = join
        self._outputs = outputs

    def setup(self) -> None:
        """Creates the encoders, which cannot be pickled; maps the item ids."""
        self._item_ids = ItemContent.open(self._join.content_dir).item_ids
        self._examples = example_coder.RecordBatchToExamplesEncoder()
        self._encoder = (
            text_features.load_encoder(self._join.text_encoder)
            if self._join.table.text
            else None
        )

    def send(self, element: tuple[tuple[str, int], Mapping]) -> Iterator[Any]:
        (split, shard), batches = element
        rows = arrow_batches.concatenate(shuffle_files.read(batches["events"]))
        path = steps.shard_path(self._outputs[split], shard, self._join.shards)
        with tfrecords.TFRecordWriter(path) as writer:
            if rows is None:
                return
            order = np.lexsort(
                (
                    arrow_batches.numpy_column(rows, steps.POSITION),
                    arrow_batches.mix(
                        arrow_batches.numpy_column(rows, search_tables.QUERY_ID)
                    ),
                )
            )
            for first in range(0, len(order), _BATCH_ROWS):
                batch = rows.take(pa.array(order[first : first + _BATCH_ROWS]))
                vectors = search_tables.features(
                    self._join.table, self._join.widths, batch, self._encoder
                )
                batch, rejected, vectors = search_validation.drop_empty(
                    batch, vectors
                )
                yield from steps.reject(self._join.table.name, rejected)
                batch, dropped = search_validation.clean_clicks(
                    batch, self._item_ids
                )
                for reason, number in dropped.items():
                    yield from steps.count(f"dropped_clicks/{reason}", number)
                yield from steps.count(
                    f"written/{split}_events", batch.num_rows
                )
                if batch.num_rows:
                    writer.write(
                        self._examples.encode(_examples(batch, vectors))
                    )


def _examples(
    batch: pa.RecordBatch, vectors: Mapping[str, np.ndarray]
) -> pa.RecordBatch:
    """Returns events with list columns only, as the encoder expects."""
    singles = pa.array(np.arange(batch.num_rows + 1), pa.int32())
    columns = {
        name: pa.ListArray.from_arrays(
            singles, arrow_batches.column(batch, name)
        )
        for name in (
            search_tables.QUERY_ID,
            search_tables.TIME,
            search_tables.PURCHASED_ITEM_ID,
        )
    }
    columns[search_tables.CLICKED_ITEM_IDS] = arrow_batches.column(
        batch, search_tables.CLICKED_ITEM_IDS
    )
    for name, matrix in vectors.items():
        ends = np.arange(len(matrix) + 1) * matrix.shape[1]
        columns[features.QUERY_PREFIX + name] = pa.ListArray.from_arrays(
            pa.array(ends, pa.int32()),
            pa.array(np.ascontiguousarray(matrix).reshape(-1)),
        )
    return pa.RecordBatch.from_arrays(
        list(columns.values()), names=list(columns)
    )
