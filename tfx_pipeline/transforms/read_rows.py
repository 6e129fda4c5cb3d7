"""Reads and checks rows of a raw table, and sends them to partitions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from muse_tools.datasets import raw_tables, validation
from muse_tools.datasets.arrow_lists import values_of
from schemas.ranking_schema import RankingSchema
from tfx_pipeline import features
from tfx_pipeline.transforms import (
    arrow_batches,
    event_histories,
    ready_histories,
    steps,
)


class ReadRows(steps.Step):
    """Reads, validates and partitions one Parquet row group."""

    def __init__(
        self,
        shuffle_dir: str | None,
        partitions: int,
        schema: pa.Schema,
        declared: RankingSchema,
        item_partitions: int,
    ) -> None:
        super().__init__(shuffle_dir)
        self._partitions = partitions
        self._schema = schema
        self._log = declared.log
        self._looked_up = ready_histories.looked_up(declared)
        self._item_partitions = item_partitions

    def send(self, element: steps.RowGroup) -> Iterator[steps.Sent]:
        """Yields rows by partition; in a log, the time decides the split."""
        for position, batch in steps.read_row_group(element, self._schema):
            place = np.arange(position, position + batch.num_rows)
            batch = arrow_batches.append(batch, position=pa.array(place))
            if self._log is None or element.table != "samples":
                yield from self._send_batch(element, batch)
                continue
            times = arrow_batches.column(batch, raw_tables.TIME)
            # Rows without a time are rejected later, so any split will do.
            first, _ = self._log.seconds(features.TRAIN_SPLIT)
            seconds = values_of(pc.fill_null(times, first))
            for split in (features.TRAIN_SPLIT, features.EVAL_SPLIT):
                first, end = self._log.seconds(split)
                inside = (seconds >= first) & (seconds < end)
                group = dataclasses.replace(element, split=split)
                part, batch = arrow_batches.split_by_mask(batch, inside)
                yield from self._send_batch(group, part)
                seconds = seconds[~inside]
            yield from steps.count(
                "read/impressions_of_other_days", batch.num_rows
            )

    def _send_batch(
        self, group: steps.RowGroup, batch: pa.RecordBatch
    ) -> Iterator[steps.Sent]:
        name = f"{group.split}_{group.table}" if group.split else group.table
        yield from steps.count(f"read/{name}", batch.num_rows)
        if group.table != "embedding_ids":
            batch, rejected = validation.validate(group.table, batch)
            yield from steps.reject(name, rejected)
        if group.table == "events" and self._log:
            rows = batch.num_rows
            batch = event_histories.behaviors(batch, self._log)
            others = rows - batch.num_rows
            yield from steps.count("read/events_of_other_actions", others)
        by_user = group.table == "user_features"
        if group.table == "samples":
            split = pa.array([group.split] * batch.num_rows, pa.string())
            batch = arrow_batches.append(batch, split=split)
        if by_user and self._looked_up:
            for index, part in arrow_batches.partition(
                ready_histories.behaviors(batch, group.split),
                raw_tables.ITEM_ID,
                self._item_partitions,
            ):
                yield "events", index, part
        code = raw_tables.USER_ID if by_user else raw_tables.ITEM_ID
        for index, part in arrow_batches.partition(
            batch, code, self._partitions
        ):
            yield "rows", (group.split, index) if by_user else index, part
