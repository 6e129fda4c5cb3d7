"""The join: raw tables in, request-grouped ``tf.train.Example`` out.

Two shuffles, both of Arrow batches keyed by a partition number, so that a
worker holds one partition at a time and the Python cost is per batch:

1. by item: samples meet item features, and the item's training impressions
   are counted (its popularity);
2. by user: samples meet the user's profile and history, which is written once
   per request instead of once per impression.

Rows that cannot be joined are not dropped: they leave by the ``rejected``
output with a reason, and every row is counted exactly once.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tfx_bsl.coders import example_coder

from tfx_pipeline import features
from tfx_pipeline.data import raw_tables, validation
from tfx_pipeline.transforms import arrow_batches

__all__ = [
    "JoinOptions",
    "JoinedRequests",
    "build_requests",
    "choose_partitions",
    "join_requests",
]

NAMESPACE = "request_join"
_ROWS_PER_BATCH = 16_384
_USERS_PER_BATCH = 1_024
_REQUESTS_PER_BATCH = 1_024
_PARTITION_BYTES = 128 << 20
_READ_BUFFER = 4 << 20

_ITEM_FEATURES = (
    raw_tables.ITEM_CATEGORY,
    raw_tables.ITEM_CITY,
    raw_tables.ITEM_PROVINCE,
)
# Column of a raw table -> feature of an Example.
_USER_FEATURES = dict(
    zip(
        (raw_tables.USER_ID, *raw_tables.USER_PROFILE),
        (features.USER_ID, *features.USER_PROFILE),
        strict=True,
    )
)
_BEHAVIOR_FEATURES = {
    raw_tables.BEHAVIOR_ITEM_IDS: features.BEHAVIOR_ITEM_IDS,
    raw_tables.BEHAVIOR_CATEGORY_IDS: features.BEHAVIOR_CATEGORY_IDS,
}
_CANDIDATE_FEATURES = dict(
    zip(
        (raw_tables.ITEM_ID, *_ITEM_FEATURES),
        (features.CANDIDATE_ITEM_IDS, *features.CANDIDATE_FEATURES),
        strict=True,
    )
)

_SCHEMAS = {
    "samples": raw_tables.SCHEMAS[raw_tables.TRAIN_SAMPLES],
    "user_features": raw_tables.SCHEMAS[raw_tables.TRAIN_USER_FEATURES],
    "item_features": raw_tables.SCHEMAS[raw_tables.ITEM_FEATURES],
    # Only who has an embedding matters here, not the embedding.
    "embedding_ids": pa.schema([(raw_tables.ITEM_ID, pa.int64())]),
}

# Columns that the join adds. A shuffle does not keep the order of rows: their
# position in the table does.
_SPLIT = "split"
_POSITION = "position"
_POPULARITY = "popularity"


@dataclasses.dataclass(frozen=True)
class JoinOptions:
    """How to join.

    Attributes:
        max_candidates: candidates of one request at most.
        partitions: partitions of each shuffle.
    """

    max_candidates: int
    partitions: int

    def __post_init__(self) -> None:
        for name in ("max_candidates", "partitions"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be at least 1. "
                    f"Received: {getattr(self, name)}"
                )


@dataclasses.dataclass(frozen=True)
class JoinedRequests:
    """What the join yields.

    Attributes:
        examples: serialised request-grouped Examples of each split.
        rejected: ``(table name, Arrow IPC bytes)`` of rows with a ``reason``.
    """

    examples: Mapping[str, beam.PCollection]
    rejected: beam.PCollection


@dataclasses.dataclass(frozen=True)
class _RowGroup:
    table: str
    split: str
    path: str
    index: int
    first_row: int


def choose_partitions(
    paths: Sequence[str | pathlib.Path], requested: int = 0
) -> int:
    """Returns the number of partitions for tables of this size.

    A partition of about 128 MB (decompressed about three times as much) fits
    any worker; ``requested`` overrides the choice unless it is 0.
    """
    if requested:
        return requested
    total = sum(pathlib.Path(path).stat().st_size for path in paths)
    return max(4, -(-3 * total // _PARTITION_BYTES))


def join_requests(
    pipeline: beam.Pipeline,
    *,
    samples: Mapping[str, Sequence[str]],
    users: Mapping[str, Sequence[str]],
    items: Sequence[str],
    embeddings: Sequence[str],
    options: JoinOptions,
) -> JoinedRequests:
    """Joins raw tables into requests.

    Args:
        pipeline: Beam pipeline to add the join to.
        samples: Parquet files of the samples of each split.
        users: Parquet files of the user features of each split.
        items: Parquet files of the item features.
        embeddings: Parquet files of the embeddings; only their ids are read.
        options: sizes of the join.

    Returns:
        The Examples of each split and the rejected rows.
    """
    count = options.partitions

    def rows(label: str, groups: list[_RowGroup]) -> beam.PCollection:
        return (
            pipeline
            | f"{label}/Files" >> beam.Create(groups, reshuffle=True)
            | f"{label}/Read"
            >> beam.ParDo(_ReadRowGroup(count)).with_outputs(
                "rejected", main="rows"
            )
        )

    sample_rows = rows(
        "Samples",
        [
            group
            for split, paths in samples.items()
            for group in _row_groups("samples", split, paths)
        ],
    )
    user_rows = rows(
        "Users",
        [
            group
            for split, paths in users.items()
            for group in _row_groups("user_features", split, paths)
        ],
    )
    item_rows = rows("Items", _row_groups("item_features", "", items))
    embedded = rows(
        "Embeddings",
        _row_groups("embedding_ids", "", embeddings),
    )
    with_items = (
        {
            "samples": sample_rows.rows,
            "items": item_rows.rows,
            "embedded": embedded.rows,
        }
        | "ByItem" >> beam.CoGroupByKey()
        | "JoinItems"
        >> beam.ParDo(_JoinItems(count)).with_outputs("rejected", main="rows")
    )
    requests = (
        {"samples": with_items.rows, "users": user_rows.rows}
        | "ByUser" >> beam.CoGroupByKey()
        | "JoinUsers"
        >> beam.ParDo(_JoinUsers(options.max_candidates)).with_outputs(
            "rejected", *samples
        )
    )
    rejected = (
        sample_rows.rejected,
        user_rows.rejected,
        item_rows.rejected,
        with_items.rejected,
        requests.rejected,
    ) | "Rejected" >> beam.Flatten()
    return JoinedRequests(
        examples={split: requests[split] for split in samples},
        rejected=rejected,
    )


def _row_groups(
    table: str,
    split: str,
    paths: Sequence[str],
) -> list[_RowGroup]:
    groups = []
    first_row = 0
    for path in paths:
        metadata = pq.ParquetFile(path).metadata
        for index in range(metadata.num_row_groups):
            groups.append(_RowGroup(table, split, str(path), index, first_row))
            first_row += metadata.row_group(index).num_rows
    return groups


def _count(name: str, amount: int) -> None:
    if amount:
        beam.metrics.Metrics.counter(NAMESPACE, name).inc(int(amount))


def _append(
    batch: pa.RecordBatch, columns: Mapping[str, pa.Array]
) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [*batch.columns, *columns.values()],
        names=[*batch.schema.names, *columns],
    )


class _ReadRowGroup(beam.DoFn):
    """Reads, validates and partitions one Parquet row group."""

    def __init__(self, partitions: int):
        self._partitions = partitions

    def process(self, group: _RowGroup) -> Iterator:
        position = group.first_row
        size = _USERS_PER_BATCH
        if group.table != "user_features":
            size = _ROWS_PER_BATCH
        schema = _SCHEMAS[group.table]
        # A small buffer makes column chunks stream instead of being read
        # whole: a row group of the published user features is gigabytes.
        with pq.ParquetFile(group.path, buffer_size=_READ_BUFFER) as file:
            for batch in file.iter_batches(
                batch_size=size,
                row_groups=[group.index],
                columns=schema.names,
            ):
                batch = raw_tables.conform(batch, schema)
                yield from self._batch(group, batch, position)
                position += batch.num_rows

    def _batch(
        self, group: _RowGroup, batch: pa.RecordBatch, position: int
    ) -> Iterator:
        name = f"{group.split}_{group.table}" if group.split else group.table
        _count(f"read/{name}", batch.num_rows)
        if group.table != "embedding_ids":
            positions = np.arange(position, position + batch.num_rows)
            batch = _append(batch, {_POSITION: pa.array(positions)})
        if group.split:
            split = pa.array([group.split] * batch.num_rows, pa.string())
            batch = _append(batch, {_SPLIT: split})
        good = batch
        if group.table != "embedding_ids":
            good, rejected = validation.validate(group.table, batch)
            yield from _reject(name, rejected)
        key = raw_tables.ITEM_ID
        if group.table == "user_features":
            key = raw_tables.USER_ID
        for index, part in arrow_batches.partition(good, key, self._partitions):
            if group.table == "user_features":
                yield (group.split, index), arrow_batches.serialize(part)
            else:
                yield index, arrow_batches.serialize(part)


def _reject(
    table: str, rows: pa.RecordBatch, reason: str | None = None
) -> Iterator[beam.pvalue.TaggedOutput]:
    if not rows.num_rows:
        return
    if reason is not None:
        reasons = pa.array([reason] * rows.num_rows, pa.string())
        rows = _append(rows, {"reason": reasons})
    for value in rows.column(
        rows.schema.get_field_index("reason")
    ).value_counts():
        _count(
            f"rejected/{table}/{value['values'].as_py()}",
            value["counts"].as_py(),
        )
    yield beam.pvalue.TaggedOutput(
        "rejected", (table, arrow_batches.serialize(rows))
    )


class _JoinItems(beam.DoFn):
    """Gives the samples of one partition their item's features."""

    def __init__(self, partitions: int):
        self._partitions = partitions

    def process(self, element: tuple[int, Mapping]) -> Iterator:
        _, parts = element
        samples = arrow_batches.concatenate(parts["samples"])
        items = arrow_batches.concatenate(parts["items"])
        embedded = arrow_batches.concatenate(parts["embedded"])
        if items is not None:
            first = _is_first(items, raw_tables.ITEM_ID)
            yield from _reject(
                "item_features",
                items.filter(pa.array(~first)),
                "duplicate item row",
            )
            items = items.filter(pa.array(first))
        if samples is None:
            return
        sample_ids = arrow_batches.numpy_column(samples, raw_tables.ITEM_ID)
        rows = _rows_of(items, raw_tables.ITEM_ID, sample_ids)
        for split, rejected in _by_split(samples, rows < 0):
            yield from _reject(f"{split}_samples", rejected, "no item row")
        known = rows >= 0
        if items is None or not known.any():
            return
        samples = samples.filter(pa.array(known))
        sample_ids, rows = sample_ids[known], rows[known]
        columns = {
            code: items.column(items.schema.get_field_index(code)).take(
                pa.array(rows)
            )
            for code in _ITEM_FEATURES
        }
        columns[_POPULARITY] = pa.array(_popularity(samples, sample_ids))
        has_vector = _rows_of(embedded, raw_tables.ITEM_ID, sample_ids) >= 0
        _count("joined/candidates_without_embedding", (~has_vector).sum())
        joined = _append(samples, columns)
        splits = arrow_batches.numpy_column(joined, _SPLIT)
        for split in np.unique(splits):
            part = joined.filter(pa.array(splits == split))
            for index, rows_of_user in arrow_batches.partition(
                part, raw_tables.USER_ID, self._partitions
            ):
                yield (
                    (str(split), index),
                    arrow_batches.serialize(rows_of_user),
                )


class _JoinUsers(beam.DoFn):
    """Turns the samples and users of one partition into Examples."""

    def __init__(self, max_candidates: int):
        self._max_candidates = max_candidates

    def setup(self) -> None:
        self._encoder = example_coder.RecordBatchToExamplesEncoder()

    def process(self, element: tuple[tuple[str, int], Mapping]) -> Iterator:
        (split, _), parts = element
        samples = arrow_batches.concatenate(parts["samples"])
        users = arrow_batches.concatenate(parts["users"])
        if users is not None:
            first = _is_first(users, raw_tables.USER_ID)
            yield from _reject(
                f"{split}_user_features",
                users.filter(pa.array(~first)),
                "duplicate user row",
            )
            users = users.filter(pa.array(first))
        if samples is None:
            return
        ids = arrow_batches.numpy_column(samples, raw_tables.USER_ID)
        rows = _rows_of(users, raw_tables.USER_ID, ids)
        yield from _reject(
            f"{split}_samples",
            samples.filter(pa.array(rows < 0)),
            "no user row",
        )
        known = rows >= 0
        if not known.any():
            return
        samples = samples.filter(pa.array(known))
        requests = build_requests(
            samples, users, rows[known], self._max_candidates
        )
        _count(f"joined/{split}_impressions", samples.num_rows)
        _count(f"joined/{split}_requests", requests.num_rows)
        for start in range(0, requests.num_rows, _REQUESTS_PER_BATCH):
            piece = requests.slice(start, _REQUESTS_PER_BATCH)
            for example in self._encoder.encode(piece):
                yield beam.pvalue.TaggedOutput(split, example)


def build_requests(
    samples: pa.RecordBatch,
    users: pa.RecordBatch,
    user_rows: np.ndarray,
    max_candidates: int,
) -> pa.RecordBatch:
    """Groups joined samples into requests.

    A user's samples keep the order they had in the table; every
    ``max_candidates`` of them make one request.

    Args:
        samples: samples with item features, popularity and position.
        users: user feature rows.
        user_rows: row of ``users`` for each sample, int64 (n,).
        max_candidates: candidates of one request at most.

    Returns:
        One row per request, every column a list, named as in the
        request-grouped Example.
    """
    positions = arrow_batches.numpy_column(samples, _POSITION)
    order = np.lexsort((positions, user_rows))
    user_rows = user_rows[order]
    starts_user = np.r_[True, user_rows[1:] != user_rows[:-1]]
    first_of_user = np.maximum.accumulate(
        np.where(starts_user, np.arange(len(order)), 0)
    )
    within = np.arange(len(order)) - first_of_user
    starts = np.flatnonzero(within % max_candidates == 0)
    offsets = pa.array(np.r_[starts, len(order)], pa.int32())

    def lists(values: pa.Array) -> pa.Array:
        return pa.ListArray.from_arrays(
            offsets, values.take(pa.array(order)).cast(pa.int64())
        )

    def column(batch: pa.RecordBatch, name: str) -> pa.Array:
        return batch.column(batch.schema.get_field_index(name))

    request_users = pa.array(user_rows[starts])
    singles = pa.array(np.arange(len(starts) + 1), pa.int32())
    columns = {}
    for code, name in _USER_FEATURES.items():
        columns[name] = pa.ListArray.from_arrays(
            singles, column(users, code).take(request_users)
        )
    for code, name in _BEHAVIOR_FEATURES.items():
        columns[name] = column(users, code).take(request_users)
    for code, name in _CANDIDATE_FEATURES.items():
        columns[name] = lists(column(samples, code))
    columns[features.CANDIDATE_POPULARITY] = lists(column(samples, _POPULARITY))
    label = column(samples, raw_tables.LABEL)
    columns[features.CLICKS] = lists(
        pa.array(label.flatten().to_numpy()[1::2].astype(np.int64))
    )
    return pa.RecordBatch.from_arrays(
        list(columns.values()), names=list(columns)
    )


def _is_first(rows: pa.RecordBatch, key: str) -> np.ndarray:
    """Returns which rows are the first of their key in the table."""
    ids = arrow_batches.numpy_column(rows, key)
    positions = arrow_batches.numpy_column(rows, _POSITION)
    order = np.lexsort((positions, ids))
    _, starts = np.unique(ids[order], return_index=True)
    first = np.zeros(len(ids), bool)
    first[order[starts]] = True
    return first


def _rows_of(
    table: pa.RecordBatch | None, key: str, wanted: np.ndarray
) -> np.ndarray:
    """Returns the row of each wanted id, or -1."""
    if table is None or not table.num_rows:
        return np.full(len(wanted), -1, np.int64)
    ids = arrow_batches.numpy_column(table, key)
    order = np.argsort(ids, kind="stable")
    place = np.searchsorted(ids, wanted, sorter=order)
    rows = order[np.minimum(place, len(ids) - 1)]
    return np.where(ids[rows] == wanted, rows, -1)


def _popularity(samples: pa.RecordBatch, ids: np.ndarray) -> np.ndarray:
    """Returns how often each sample's item occurs in the train split."""
    train = arrow_batches.numpy_column(samples, _SPLIT) == "train"
    distinct, counts = np.unique(ids[train], return_counts=True)
    if not len(distinct):
        return np.zeros(len(ids), np.int64)
    place = np.minimum(np.searchsorted(distinct, ids), len(distinct) - 1)
    return np.where(distinct[place] == ids, counts[place], 0)


def _by_split(
    batch: pa.RecordBatch, chosen: np.ndarray
) -> Iterator[tuple[str, pa.RecordBatch]]:
    splits = arrow_batches.numpy_column(batch, _SPLIT)
    for split in np.unique(splits[chosen]):
        rows = chosen & (splits == split)
        yield str(split), batch.filter(pa.array(rows))
