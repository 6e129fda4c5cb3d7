"""The join by item, which adds item features to samples and behaviors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa

from muse_tools.datasets import raw_tables, validation
from schemas.ranking_schema import Log, RankingSchema
from tfx_pipeline import features
from tfx_pipeline.transforms import (
    arrow_batches,
    event_histories,
    feature_columns,
    requests,
    shuffle_files,
    steps,
)


class JoinItems(steps.Step):
    """Adds item features to the samples and behaviors of one partition."""

    def __init__(
        self,
        shuffle_dir: str | None,
        partitions: int,
        declared: RankingSchema,
        imported: bool = True,
    ) -> None:
        super().__init__(shuffle_dir)
        self._partitions = partitions
        self._declared = declared
        self._imported = imported

    def send(self, element: tuple[int, Mapping]) -> Iterator[steps.Sent]:
        """Yields joined samples by split and user, and behaviors."""
        _, sent = element
        samples, events, items, embedded = (
            arrow_batches.concatenate(shuffle_files.read(sent.get(name, ())))
            for name in ("samples", "events", "items", "embedded")
        )
        if items is not None:
            items, extra = arrow_batches.split_by_mask(
                items, requests.is_first(items, raw_tables.ITEM_ID)
            )
            yield from steps.reject(
                "item_features", extra, validation.DUPLICATE_ITEM
            )
            items = feature_columns.with_filled(
                items, self._declared.features.learned()
            )
        if events is not None:
            yield from self._send_behaviors(events, items)
        if samples is None:
            return
        rows = _lookup(items, samples)
        samples, unknown = arrow_batches.split_by_mask(samples, rows >= 0)
        for split, rejected in _by_split(unknown):
            yield from steps.reject(
                f"{split}_samples", rejected, validation.NO_ITEM_FEATURES
            )
        if items is None or not samples.num_rows:
            return
        rows = pa.array(rows[rows >= 0])
        columns = {
            name: arrow_batches.column(items, name).take(rows)
            for name in requests.item_features(items)
        }
        columns[requests.POPULARITY] = pa.array(
            requests.popularity(samples, features.TRAIN_SPLIT)
        )
        if self._imported:
            without = (_lookup(embedded, samples) < 0).sum()
            yield from steps.count(
                "joined/candidates_without_embedding", without
            )
        joined = arrow_batches.append(samples, **columns)
        for split, part in _by_split(joined):
            for index, rows_of_users in arrow_batches.partition(
                part, raw_tables.USER_ID, self._partitions
            ):
                yield "rows", (split, index), rows_of_users

    def _send_behaviors(
        self, events: pa.RecordBatch, items: pa.RecordBatch | None
    ) -> Iterator[steps.Sent]:
        """Adds item features to behaviors, and yields them by split and user.

        From a log, each split gets the events before its end. The features of
        items without a row are missing.
        """
        log = self._declared.log
        if log:
            events, extra = arrow_batches.split_by_mask(
                events, ~event_histories.is_repeated(events)
            )
            yield from steps.reject(
                "events", extra, event_histories.DUPLICATE_EVENT
            )
        rows = _lookup(items, events)
        columns = {}
        for name in self._declared.features.of_items:
            columns[f"behavior_{name}"] = feature_columns.rows_or_missing(
                None
                if items is None
                else arrow_batches.column(items, f"item_{name}"),
                rows,
                self._declared.features.item[name],
            )
        joined = arrow_batches.append(events, **columns)
        for split, part in (
            _until_ends(joined, log) if log else _by_split(joined)
        ):
            for index, of_users in arrow_batches.partition(
                part, raw_tables.USER_ID, self._partitions
            ):
                yield "events", (split, index), of_users


def _until_ends(
    events: pa.RecordBatch, log: Log
) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Yields each split with the events before its end."""
    seconds = arrow_batches.numpy_column(events, raw_tables.TIME)
    for split in (features.TRAIN_SPLIT, features.EVAL_SPLIT):
        _, end = log.seconds(split)
        yield split, arrow_batches.split_by_mask(events, seconds < end)[0]


def _lookup(
    table: pa.RecordBatch | None, samples: pa.RecordBatch
) -> np.ndarray:
    """Returns the row of each sample's item, int64 (N,), or -1."""
    wanted = arrow_batches.numpy_column(samples, raw_tables.ITEM_ID)
    return requests.rows_of(table, raw_tables.ITEM_ID, wanted)


def _by_split(rows: pa.RecordBatch) -> Iterator[tuple[str, pa.RecordBatch]]:
    splits = arrow_batches.numpy_column(rows, requests.SPLIT)
    for split in np.unique(splits):
        yield str(split), rows.filter(pa.array(splits == split))
