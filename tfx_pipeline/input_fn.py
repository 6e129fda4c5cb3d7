"""Transformed Examples as batches of model inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from muse_keras.tensorflow import model_inputs
from tfx_pipeline import features

__all__ = [
    "count_records",
    "ranking_dataset",
    "request_dataset",
    "training_batch",
]


def request_dataset(
    file_patterns: Sequence[str],
    feature_spec: dict[str, Any],
    batch_requests: int,
    *,
    shuffle_requests: int = 0,
    epochs: int = 1,
    seed: int = 0,
) -> tf.data.Dataset:
    """Reads transformed, request-grouped Examples.

    The order is a function of the seed alone, so that a resumed run can skip
    what it has seen.

    Args:
        file_patterns: gzip TFRecord files.
        feature_spec: spec of the transformed features.
        batch_requests: requests per batch.
        shuffle_requests: size of the shuffle buffer; 0 keeps the order.
        epochs: passes over the data, each in another order.
        seed: of the order.

    Returns:
        Dataset of dictionaries of SparseTensors and Tensors.
    """
    files = tf.data.Dataset.list_files(list(file_patterns), shuffle=False)
    dataset = files.interleave(
        lambda path: tf.data.TFRecordDataset(path, compression_type="GZIP"),
        cycle_length=4,
        num_parallel_calls=2,
        deterministic=True,
    )
    if shuffle_requests:
        dataset = dataset.shuffle(shuffle_requests, seed=seed)
    return (
        dataset.repeat(epochs)
        .batch(batch_requests)
        .map(
            lambda examples: tf.io.parse_example(examples, feature_spec),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
    )


def ranking_dataset(requests: tf.data.Dataset) -> tf.data.Dataset:
    """Turns request batches into what `keras.Model.fit` takes.

    Args:
        requests: dataset of `request_dataset`.

    Returns:
        Dataset of `training_batch` tuples.
    """
    return requests.map(
        training_batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    ).prefetch(tf.data.AUTOTUNE)


def training_batch(
    batch: dict[str, Any],
) -> tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor]:
    """Returns model inputs, clicks and weights of a batch of requests.

    Args:
        batch: transformed features, SparseTensors and Tensors.

    Returns:
        ``(inputs, clicks, weights)``; clicks and weights are float32 (B, C).
        Weights are 0 on padding and average 1 over the batch, so that the
        mean over (B, C) is the mean over real impressions, also when the
        batch is split over devices.
    """
    inputs = model_inputs.dense_model_inputs(batch)
    mask = tf.cast(inputs["candidate_mask"], tf.float32)
    clicks = tf.sparse.to_dense(batch[features.CLICKS])
    weights = mask * tf.math.divide_no_nan(
        tf.cast(tf.size(mask), tf.float32), tf.reduce_sum(mask)
    )
    return inputs, tf.cast(clicks, tf.float32), weights


def count_records(file_patterns: Sequence[str]) -> int:
    """Returns the number of Examples in gzip TFRecord files."""
    files = tf.data.Dataset.list_files(list(file_patterns), shuffle=False)
    records = tf.data.TFRecordDataset(files, compression_type="GZIP")
    return int(records.reduce(tf.constant(0, tf.int64), lambda n, _: n + 1))
