"""What TF-Transform computes, in training and inside the SavedModel.

Index convention of every vocabulary: 0 is missing, value i of the vocabulary
is i + 1, everything else shares the index after the last value.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

from muse_keras.tensorflow import request_features
from tfx_pipeline import features


def preprocessing_fn(
    inputs: dict[str, tf.SparseTensor], custom_config: dict[str, Any]
) -> dict[str, tf.Tensor | tf.SparseTensor]:
    """Turns raw request features into the features of the model.

    Args:
        inputs: request-grouped features, int64 SparseTensors of shape (B, n).
        custom_config: ``max_history``, ``vocabulary_size``,
            ``vocabulary_frequency_threshold`` and ``features``, the declared
            names of the groups ``user``, ``item``, ``behavior`` and
            ``matches``.

    Returns:
        Vocabulary indices ``user_<f>`` int64 (B, 1); of the newest
        ``max_history`` real behaviors, oldest first, ``behavior_item_ids``
        (raw) and indices ``behavior_<f>``; ``candidate_item_ids`` (raw),
        indices ``candidate_<f>`` and counts ``candidate_<f>_matches`` float32;
        ``user_id``, ``clicks``. The vocabularies are ``user_<f>`` and
        ``item_<f>``.
    """
    names = custom_config["features"]
    threshold = custom_config["vocabulary_frequency_threshold"]
    settings = {
        "top_k": custom_config["vocabulary_size"],
        "frequency_threshold": threshold if threshold > 1 else None,
    }
    behavior_ids = tf.sparse.to_dense(inputs[features.BEHAVIOR_ITEM_IDS])
    keep = request_features.newest_mask(
        behavior_ids, custom_config["max_history"]
    )
    candidates = inputs[features.CANDIDATE_ITEM_IDS]
    real = tf.sequence_mask(
        _row_lengths(candidates), tf.cast(candidates.dense_shape[1], tf.int32)
    )
    outputs = {
        features.USER_ID: inputs[features.USER_ID],
        features.BEHAVIOR_ITEM_IDS: _sparse(behavior_ids, keep),
        features.CANDIDATE_ITEM_IDS: candidates,
        features.CLICKS: inputs[features.CLICKS],
    }
    for name in (f"user_{feature}" for feature in names["user"]):
        values = _single(inputs[name])
        vocabulary = _vocabulary([values], name, settings)
        outputs[name] = _apply(values, vocabulary)
    for feature in names["item"]:
        candidate = f"candidate_{feature}"
        behavior = f"behavior_{feature}"
        given = [candidate]
        if feature in names["behavior"]:
            given = [behavior, candidate]
        values = [tf.sparse.to_dense(inputs[name]) for name in given]
        vocabulary = _vocabulary(values, f"item_{feature}", settings)
        indices = [_apply(some, vocabulary) for some in values]
        outputs[candidate] = _sparse(indices[-1], real)
        if feature in names["behavior"]:
            outputs[behavior] = _sparse(indices[0], keep)
        if feature in names["matches"]:
            matches = request_features.feature_matches(
                tf.cast(indices[0], tf.int32),
                keep,
                tf.cast(indices[-1], tf.int32),
                vocabulary_size(f"item_{feature}"),
            )
            outputs[f"{candidate}_matches"] = _sparse(matches, real)
    return outputs


def vocabulary_size(name: str) -> tf.Tensor:
    """Returns the number of indices of a vocabulary inside Transform.

    Includes the indices of missing and unseen values.
    """
    return (
        tf.cast(tft.experimental.get_vocabulary_size_by_name(name), tf.int32)
        + 2
    )


def _vocabulary(
    values: list[tf.Tensor], name: str, settings: dict[str, Any]
) -> tf.Tensor:
    flat = tf.concat([tf.reshape(some, [-1]) for some in values], axis=0)
    return tft.vocabulary(
        tf.boolean_mask(flat, flat != 0), vocab_filename=name, **settings
    )


def _apply(values: tf.Tensor, vocabulary: tf.Tensor) -> tf.Tensor:
    known = tft.apply_vocabulary(values, vocabulary, num_oov_buckets=1)
    return tf.where(values == 0, tf.zeros_like(known), known + 1)


def _single(values: tf.SparseTensor) -> tf.Tensor:
    """Returns a feature of one value per request as (B, 1)."""
    shape = tf.stack([values.dense_shape[0], 1])
    dense = tf.sparse.to_dense(
        tf.SparseTensor(values.indices, values.values, shape)
    )
    return tf.reshape(dense, [-1, 1])


def _row_lengths(values: tf.SparseTensor) -> tf.Tensor:
    return tf.math.bincount(
        tf.cast(values.indices[:, 0], tf.int32),
        minlength=tf.cast(values.dense_shape[0], tf.int32),
    )


def _sparse(values: tf.Tensor, keep: tf.Tensor) -> tf.SparseTensor:
    """Returns the kept values, left-justified."""
    return tf.RaggedTensor.to_sparse(tf.ragged.boolean_mask(values, keep))
