"""Reads gzip TFRecord files in an order that a resumed run can repeat."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Shard:
    """One of ``count`` parts of the files, or of the records of few files."""

    index: int
    count: int


WHOLE = Shard(0, 1)


def record_dataset(
    file_patterns: Sequence[str],
    *,
    shuffle: int = 0,
    epochs: int = 1,
    seed: int = 0,
    shard: Shard = WHOLE,
) -> tf.data.Dataset:
    """Reads serialized records of gzip TFRecord files as string scalars.

    A shard has every ``count``-th file in the order of their names, from the
    one at ``index`` on; of fewer files than shards, every ``count``-th record.

    With ``shuffle`` (the size of the buffer), each epoch has a different order.
    It depends only on the seed (and `tf.random.set_seed`), in every iteration.
    """
    files, rest = _files(file_patterns, shard)
    records = files.interleave(
        lambda path: tf.data.TFRecordDataset(path, compression_type="GZIP"),
        cycle_length=4,
        block_length=16,
        num_parallel_calls=2,
        deterministic=True,
    ).shard(rest.count, rest.index)
    if not shuffle:
        return records.repeat(epochs)
    # With reshuffle_each_iteration, the order would depend on the number of
    # iterators before, and Keras opens one before it trains.
    passes = [
        records.shuffle(
            shuffle, seed=seed + epoch, reshuffle_each_iteration=False
        )
        for epoch in range(epochs)
    ]
    return functools.reduce(tf.data.Dataset.concatenate, passes)


def count_records(file_patterns: Sequence[str], shard: Shard = WHOLE) -> int:
    """Returns the number of records in gzip TFRecord files."""
    files, rest = _files(file_patterns, shard)
    batches = files.interleave(
        lambda path: tf.data.TFRecordDataset(
            path, compression_type="GZIP"
        ).batch(256),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=False,
    )
    zero = tf.constant(0, tf.int64)
    found = batches.reduce(
        zero, lambda count, batch: count + tf.size(batch, tf.int64)
    )
    return len(range(rest.index, int(found), rest.count))


def _files(
    file_patterns: Sequence[str], shard: Shard
) -> tuple[tf.data.Dataset, Shard]:
    """Returns the files to read, and the shard of their records."""
    files = tf.data.Dataset.list_files(list(file_patterns), shuffle=False)
    if int(files.cardinality()) < shard.count:
        return files, shard
    return files.shard(shard.count, shard.index), WHOLE
