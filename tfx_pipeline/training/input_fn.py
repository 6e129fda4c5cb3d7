"""Reads transformed Examples as batches of model inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from muse_keras._ops import replicas
from muse_keras.tensorflow import model_inputs
from schemas.ranking_schema import RankingSchema
from serving.export.feature_names import tensor_names
from tfx_pipeline import features
from tfx_pipeline.training import records

# The label of padding.
PADDING = -1


def request_dataset(
    file_patterns: Sequence[str],
    feature_spec: dict[str, Any],
    batch_requests: int,
    *,
    shuffle_requests: int = 0,
    epochs: int = 1,
    seed: int = 0,
    skip_batches: int = 0,
    shard: records.Shard = records.WHOLE,
) -> tf.data.Dataset:
    """Reads transformed, request-grouped Examples.

    The order depends only on the seed (and `tf.random.set_seed`), in every
    iteration, so that a resumed run can skip the batches that it has seen.

    Whole batches are parsed at once, with lists as padded tensors, because the
    indices of a SparseTensor would take twice the bytes of its values and more
    time than reading them.

    Returns:
        Dataset of dictionaries of dense tensors (B, n), padded with 0; labels
        are padded with `PADDING`.
    """
    dataset = records.record_dataset(
        file_patterns,
        shuffle=shuffle_requests,
        epochs=epochs,
        seed=seed,
        shard=shard,
    )
    padded_spec = {
        name: _padded(name, feature) for name, feature in feature_spec.items()
    }
    return (
        dataset.batch(batch_requests)
        .skip(skip_batches)
        .map(
            lambda examples: tf.io.parse_example(examples, padded_spec),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
    )


def ranking_dataset(
    requests: tf.data.Dataset,
    batch_requests: int,
    declared: RankingSchema,
    normalize: bool = True,
) -> tf.data.Dataset:
    """Converts batches of requests to batches for `keras.Model.fit`."""
    return requests.map(
        lambda batch: training_batch(
            batch, declared, batch_requests, normalize
        ),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    ).prefetch(tf.data.AUTOTUNE)


def training_batch(
    batch: dict[str, Any],
    declared: RankingSchema,
    batch_requests: int = 0,
    normalize: bool = True,
) -> tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor]:
    """Returns model inputs, labels and weights of a batch of requests.

    The batch is padded to ``batch_requests``, unless that is 0.

    Returns:
        ``(inputs, labels, weights)``; labels and weights are float32 (B, C),
        or (B, C, T) for T > 1 labels. Weights are 0 on padding and have the
        mean 1 over the batch. So the mean loss of the batch is the weighted
        mean over real impressions and labels, also if devices share the batch.
        Without ``normalize`` they are those of `normalized` up to a factor.
    """
    names = tensor_names(declared.features)
    inputs = model_inputs.dense_model_inputs(batch, names)
    clicks = tf.cast(batch[features.CLICKS], tf.float32)
    inputs["candidate_mask"] = tf.not_equal(clicks, PADDING)
    others = features.labels(declared)[1:]
    labels = clicks
    if others:
        given = [tf.cast(batch[name], tf.float32) for name in others]
        labels = tf.stack([clicks, *given], axis=-1)
    labels = tf.maximum(labels, 0.0)
    mask = tf.cast(inputs["candidate_mask"], tf.float32)
    if declared.weight:
        mask *= batch[features.WEIGHTS]
    if batch_requests:
        inputs = {
            name: _fill_up(values, batch_requests)
            for name, values in inputs.items()
        }
        labels = _fill_up(labels, batch_requests)
        mask = _fill_up(mask, batch_requests)
    weights = mask
    if normalize:
        weights *= tf.math.divide_no_nan(
            tf.cast(tf.size(mask), tf.float32), tf.reduce_sum(mask)
        )
    if others:
        counts = [one.loss_weight for one in declared.labels.values()]
        mean = sum(counts) / len(counts)
        weights = weights[..., tf.newaxis] * [one / mean for one in counts]
    return inputs, labels, weights


def normalized(batch: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
    """Scales the weights of a device's part of a batch.

    The weights of all devices get the mean 1, each device's size counted as
    the loss does, which is the mean over devices of the mean of each.
    """
    inputs, labels, weights = batch
    size = tf.cast(tf.size(weights) * replicas.replica_count(), tf.float32)
    total = replicas.sum_over_replicas(tf.reduce_sum(weights))
    return inputs, labels, weights * tf.math.divide_no_nan(size, total)


def joined(shards: Sequence[tf.data.Dataset]) -> tf.data.Dataset:
    """Joins the batches of shards, without end: after the last are empty ones.

    The first batch has the rows of the first batches of all shards, in order.
    """
    endless = [
        shard.concatenate(
            tf.data.Dataset.from_tensors(
                tf.nest.map_structure(_blank, shard.element_spec)
            ).repeat()
        )
        for shard in shards
    ]
    return tf.data.Dataset.zip(tuple(endless)).map(
        lambda *batches: tf.nest.map_structure(_concatenated, *batches),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )


def _blank(spec: tf.TensorSpec) -> tf.Tensor:
    """Returns zeros, one for each open axis."""
    return tf.zeros([size or 1 for size in spec.shape], spec.dtype)


def _concatenated(*parts: tf.Tensor) -> tf.Tensor:
    """Returns the rows of all parts (B, n, ...), padded with 0 or False."""
    if len(parts) == 1 or parts[0].shape.rank < 2:
        return tf.concat(parts, axis=0)
    width = tf.reduce_max([tf.shape(part)[1] for part in parts])
    return tf.concat(
        [
            tf.pad(
                part,
                [
                    [0, 0],
                    [0, width - tf.shape(part)[1]],
                    *[[0, 0]] * (part.shape.rank - 2),
                ],
            )
            for part in parts
        ],
        axis=0,
    )


def _padded(name: str, feature: Any) -> Any:
    """Returns the spec that parses a list into a padded tensor."""
    if not isinstance(feature, tf.io.VarLenFeature):
        return feature
    return tf.io.FixedLenSequenceFeature(
        [],
        feature.dtype,
        allow_missing=True,
        default_value=PADDING if _is_label(name) else None,
    )


def _is_label(name: str) -> bool:
    return name == features.CLICKS or name.startswith("label_")


def _fill_up(values: tf.Tensor, rows: int) -> tf.Tensor:
    """Returns (rows, ...): values (B, ...) padded with 0 or False."""
    missing = rows - tf.shape(values)[0]
    filled = tf.pad(values, [[0, missing], *[[0, 0]] * (values.shape.rank - 1)])
    return tf.ensure_shape(filled, [rows, *values.shape[1:]])
