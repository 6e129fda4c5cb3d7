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
        custom_config: ``max_history``, ``vocabulary_size`` and
            ``vocabulary_frequency_threshold``.

    Returns:
        ``user_profile`` int64 (B, 5); ``behavior_item_ids`` (raw) and
        ``behavior_categories`` (indices), the newest ``max_history`` real
        behaviors, oldest first; ``candidate_item_ids`` (raw),
        ``candidate_categories``, ``candidate_cities``, ``candidate_provinces``
        (indices), ``candidate_category_matches`` float32; ``user_id``,
        ``clicks``.
    """
    threshold = custom_config["vocabulary_frequency_threshold"]
    settings = {
        "top_k": custom_config["vocabulary_size"],
        "frequency_threshold": threshold if threshold > 1 else None,
    }
    dense = {
        name: tf.sparse.to_dense(inputs[name])
        for name in (
            features.BEHAVIOR_ITEM_IDS,
            features.BEHAVIOR_CATEGORY_IDS,
            *features.CANDIDATE_FEATURES,
        )
    }
    behavior_ids = dense[features.BEHAVIOR_ITEM_IDS]
    keep = request_features.newest_mask(
        behavior_ids, custom_config["max_history"]
    )
    category_values, city_values, province_values = (
        dense[name] for name in features.CANDIDATE_FEATURES
    )
    category_vocabulary = _vocabulary(
        tf.concat(
            [
                tf.reshape(dense[features.BEHAVIOR_CATEGORY_IDS], [-1]),
                tf.reshape(category_values, [-1]),
            ],
            axis=0,
        ),
        "category",
        settings,
    )
    behavior_categories = _apply(
        dense[features.BEHAVIOR_CATEGORY_IDS], category_vocabulary
    )
    candidate_categories = _apply(category_values, category_vocabulary)
    matches = request_features.feature_matches(
        tf.cast(behavior_categories, tf.int32),
        keep,
        tf.cast(candidate_categories, tf.int32),
        vocabulary_size("category"),
    )
    profile = [
        _index(_single(inputs[name]), name, settings)
        for name in features.USER_PROFILE
    ]
    candidates = inputs[features.CANDIDATE_ITEM_IDS]
    real = tf.sequence_mask(
        _row_lengths(candidates), tf.shape(category_values)[1]
    )
    outputs = {
        features.USER_ID: inputs[features.USER_ID],
        "user_profile": tf.concat(profile, axis=1),
        features.BEHAVIOR_ITEM_IDS: _sparse(behavior_ids, keep),
        "behavior_categories": _sparse(behavior_categories, keep),
        features.CANDIDATE_ITEM_IDS: candidates,
        "candidate_categories": _sparse(candidate_categories, real),
        "candidate_cities": _sparse(
            _index(city_values, "city", settings), real
        ),
        "candidate_provinces": _sparse(
            _index(province_values, "province", settings), real
        ),
        "candidate_category_matches": _sparse(matches, real),
        features.CLICKS: inputs[features.CLICKS],
    }
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
    values: tf.Tensor, name: str, settings: dict[str, Any]
) -> tf.Tensor:
    return tft.vocabulary(
        tf.boolean_mask(values, values != 0),
        vocab_filename=name,
        **settings,
    )


def _apply(values: tf.Tensor, vocabulary: tf.Tensor) -> tf.Tensor:
    known = tft.apply_vocabulary(values, vocabulary, num_oov_buckets=1)
    return tf.where(values == 0, tf.zeros_like(known), known + 1)


def _index(values: tf.Tensor, name: str, settings: dict[str, Any]) -> tf.Tensor:
    return _apply(values, _vocabulary(tf.reshape(values, [-1]), name, settings))


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
