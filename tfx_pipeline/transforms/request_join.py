"""Joins raw tables into request-grouped ``tf.train.Example`` files.

The join has two shuffles of Arrow batches keyed by a partition number, so that
a worker holds one partition at a time and Python costs time per batch only:

1. By item: samples get item features, and the training impressions of each item
   are counted (its popularity).
2. By user: samples get the user's features and history, which is written once
   per request instead of once per impression. Each partition becomes one file
   per split. Events of a log go through both shuffles, and `event_histories`
   cuts the history of each request out of them.

A shuffle moves batches or their places in a file (`shuffle_files`). With files,
the memory of a local runner does not grow with the data: a worker holds one
partition, and the runner a few bytes per partition and row group.

Rows that cannot be joined leave by the ``rejected`` output with a reason, so
that every row is counted exactly once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from tfx_bsl.coders import example_coder

from muse_tools.datasets import parquet_files, raw_tables, validation
from muse_tools.datasets.object_paths import source
from schemas.ranking_schema import RankingSchema
from tfx_pipeline.transforms import (
    arrow_batches,
    event_histories,
    item_join,
    read_rows,
    ready_histories,
    requests,
    shuffle_files,
    steps,
    tfrecords,
)


@dataclasses.dataclass(frozen=True)
class JoinOptions:
    """Settings of the join.

    ``user_partitions`` is also the number of files of each split. All workers
    must share ``shuffle_dir``; with None, the runner shuffles the batches.
    """

    max_candidates: int
    item_partitions: int
    user_partitions: int
    shuffle_dir: str | None = None

    def __post_init__(self) -> None:
        for name in ("max_candidates", "item_partitions", "user_partitions"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be at least 1. "
                    f"Received: {getattr(self, name)}"
                )


@dataclasses.dataclass(frozen=True)
class RawFiles:
    """Parquet files of the raw tables, by split if they have one.

    Impressions of a log get their split in the join; only logs have events.
    From the embeddings only ids are read, to count candidates without one; if
    vectors are not imported, there are no such files.
    """

    samples: Mapping[str, Sequence[str]]
    users: Mapping[str, Sequence[str]]
    events: Sequence[str]
    items: Sequence[str]
    embeddings: Sequence[str]
    declared: RankingSchema

    def schemas(self) -> dict[str, pa.Schema]:
        """Returns the schema of each kind of table."""
        tables = raw_tables.schemas(self.declared)
        names = {
            "samples": (raw_tables.TRAIN_SAMPLES, raw_tables.IMPRESSIONS),
            "user_features": (raw_tables.TRAIN_USER_FEATURES, raw_tables.USERS),
            "events": (raw_tables.EVENTS,),
            "item_features": (raw_tables.ITEM_FEATURES,),
        }
        found = {
            kind: tables[name]
            for kind, ones in names.items()
            for name in ones
            if name in tables
        }
        # The join needs only the ids of items that have an embedding.
        vectors = tables[raw_tables.EMBEDDINGS]
        ids = pa.schema([vectors.field(raw_tables.ITEM_ID)])
        return {**found, "embedding_ids": ids}


def choose_partitions(files: RawFiles) -> tuple[int, int]:
    """Returns numbers of partitions, by item and by user, for these files."""
    looked_up = ready_histories.looked_up(files.declared)
    by_item = _decoded_bytes(
        files,
        samples=[path for paths in files.samples.values() for path in paths],
        user_features=[
            path
            for paths in files.users.values()
            for path in paths
            if looked_up
        ],
        events=files.events,
        item_features=files.items,
        embedding_ids=files.embeddings,
    )
    by_user = [
        _decoded_bytes(files, user_features=paths, events=files.events)
        for paths in files.users.values()
    ]
    return steps.partitions_for(by_item), steps.partitions_for(max(by_user))


def _decoded_bytes(files: RawFiles, **tables: Sequence[str]) -> int:
    """Returns the size in memory of Parquet files, given by kind of table."""
    schemas = files.schemas()
    return sum(
        size
        for kind, paths in tables.items()
        for path in paths
        for _, size in parquet_files.decoded_bytes(
            pq.read_metadata(source(path)), raw_tables.in_files(schemas[kind])
        )
    )


def write_requests(
    pipeline: beam.Pipeline,
    files: RawFiles,
    outputs: Mapping[str, str],
    options: JoinOptions,
) -> steps.Left:
    """Joins raw tables into requests and writes them."""
    schemas = files.schemas()

    def rows(
        kind: str, paths: Mapping[str, Sequence[str]], partitions: int
    ) -> beam.PCollection:
        # A table without files needs no schema.
        schema = schemas.get(kind, pa.schema([]))
        groups = steps.row_groups(kind, schema, paths)
        step = read_rows.ReadRows(
            options.shuffle_dir, partitions, schema, files.declared, by_item
        )
        return (
            pipeline
            | f"{kind}/RowGroups" >> beam.Create(groups, reshuffle=True)
            | f"{kind}/Read" >> steps.step(step)
        )

    by_item, by_user = options.item_partitions, options.user_partitions
    sample_rows = rows("samples", files.samples, by_item)
    user_rows = rows("user_features", files.users, by_user)
    event_rows = (
        rows("events", {"": files.events}, by_item) if files.events else None
    )
    behaviors: beam.PCollection | None = None
    if event_rows:
        behaviors = event_rows.rows
    elif ready_histories.looked_up(files.declared):
        behaviors = user_rows.events
    item_rows = rows("item_features", {"": files.items}, by_item)
    embedded = rows("embedding_ids", {"": files.embeddings}, by_item)
    with_items = (
        {
            "samples": sample_rows.rows,
            **({"events": behaviors} if behaviors else {}),
            "items": item_rows.rows,
            "embedded": embedded.rows,
        }
        | "ByItem" >> beam.CoGroupByKey()
        | "JoinItems"
        >> steps.step(
            item_join.JoinItems(
                options.shuffle_dir,
                by_user,
                files.declared,
                bool(files.embeddings),
            )
        )
    )
    shards = steps.shards(pipeline, outputs, by_user)
    written = (
        {
            "samples": with_items.rows,
            **({"events": with_items.events} if behaviors else {}),
            "users": user_rows.rows,
            "shards": shards,
        }
        | "ByUser" >> beam.CoGroupByKey()
        | "WriteRequests"
        >> steps.step(_WriteRequests(dict(outputs), options, files.declared))
    )
    return steps.left(
        sample_rows,
        *((event_rows,) if event_rows else ()),
        user_rows,
        item_rows,
        embedded,
        with_items,
        written,
    )


class _WriteRequests(steps.Step):
    """Writes the Examples of one partition of users."""

    def __init__(
        self,
        outputs: Mapping[str, str],
        options: JoinOptions,
        declared: RankingSchema,
    ) -> None:
        super().__init__(options.shuffle_dir)
        self._outputs = outputs
        self._options = options
        self._declared = declared

    def setup(self) -> None:
        """Creates the encoder, which cannot be pickled."""
        self._encoder = example_coder.RecordBatchToExamplesEncoder()

    def send(
        self, element: tuple[tuple[str, int], Mapping]
    ) -> Iterator[steps.Sent]:
        (split, shard), sent = element
        samples, users, events = (
            arrow_batches.concatenate(shuffle_files.read(sent.get(name, ())))
            for name in ("samples", "users", "events")
        )
        log = self._declared.log
        if log and not self._declared.features.user and samples is not None:
            # Logs without user features need no table of users.
            users = requests.distinct_users(samples)
        if users is not None:
            users, extra = arrow_batches.split_by_mask(
                users, requests.is_first(users, raw_tables.USER_ID)
            )
            yield from steps.reject(
                f"{split}_user_features", extra, validation.DUPLICATE_USER
            )
        batches: Iterator[pa.RecordBatch] = iter(())
        if samples is not None:
            rows = requests.rows_of(
                users,
                raw_tables.USER_ID,
                arrow_batches.numpy_column(samples, raw_tables.USER_ID),
            )
            samples, unknown = arrow_batches.split_by_mask(samples, rows >= 0)
            yield from steps.reject(
                f"{split}_samples", unknown, validation.NO_USER_FEATURES
            )
            yield from steps.count(
                f"joined/{split}_impressions", samples.num_rows
            )
            if users is not None and samples.num_rows:
                histories = None
                if ready_histories.looked_up(self._declared):
                    users = ready_histories.with_features(
                        users, events, self._declared
                    )
                if log:
                    if events is None:
                        events = event_histories.no_events(self._declared)
                    of_users = requests.rows_of(
                        users,
                        raw_tables.USER_ID,
                        arrow_batches.numpy_column(events, raw_tables.USER_ID),
                    )
                    events, _ = arrow_batches.split_by_mask(
                        events, of_users >= 0
                    )
                    histories = event_histories.EventHistories(
                        events,
                        of_users[of_users >= 0],
                        log,
                        event_histories.since_features(self._declared),
                    )
                batches = requests.build_requests(
                    samples,
                    users,
                    rows[rows >= 0],
                    self._options.max_candidates,
                    self._declared,
                    histories,
                )
        path = steps.shard_path(
            self._outputs[split], shard, self._options.user_partitions
        )
        with tfrecords.TFRecordWriter(path) as writer:
            for batch in batches:
                yield from steps.count(
                    f"joined/{split}_requests", batch.num_rows
                )
                writer.write(self._encoder.encode(batch))
