"""From transformed features to the dense inputs of the ranking models."""

from collections.abc import Mapping
from typing import TypeAlias

import tensorflow as tf

Feature: TypeAlias = tf.Tensor | tf.SparseTensor | tf.RaggedTensor

_BEHAVIORS = {
    "behavior_item_ids": tf.int64,
    "behavior_categories": tf.int32,
}
_CANDIDATES = {
    "candidate_item_ids": tf.int64,
    "candidate_categories": tf.int32,
    "candidate_cities": tf.int32,
    "candidate_provinces": tf.int32,
    "candidate_category_matches": tf.float32,
}


def dense_model_inputs(
    transformed: Mapping[str, Feature],
) -> dict[str, tf.Tensor]:
    """Turn a batch of transformed features into the models' inputs.

    The trainer's input and the `serving_default` signature both call this.
    Features that are not model inputs, such as `user_id` and `clicks`, are
    left out (use `densify` for labels).

    Args:
        transformed: `user_profile` (B, 5); `behavior_item_ids`,
            `behavior_categories`, and `candidate_item_ids`,
            `candidate_categories`, `candidate_cities`, `candidate_provinces`,
            `candidate_category_matches`, each a sparse, ragged or dense
            (B, any). Ids are raw int64; the rest are vocabulary indices, and
            matches are float counts.

    Returns:
        dict: `user_profile` int32 (B, 5); `behavior_item_ids` int64 and
        `behavior_categories` int32 (B, L), padded with 0; `behavior_mask`
        bool (B, L), True where the item id is not 0; `candidate_item_ids`
        int64, `candidate_categories`, `candidate_cities`,
        `candidate_provinces` int32, `candidate_category_matches` float32
        (B, C), padded with 0; `candidate_mask` bool (B, C), True for the
        candidates given, whatever their id (for dense input: ids other than
        0).

    Raises:
        ValueError: if a feature is missing.
    """
    required = ("user_profile", *_BEHAVIORS, *_CANDIDATES)
    missing = [name for name in required if name not in transformed]
    if missing:
        raise ValueError(
            f"`transformed` must hold the feature {missing[0]!r}. "
            f"Received: {sorted(transformed)}"
        )
    inputs = {
        name: tf.cast(densify(transformed[name]), dtype)
        for name, dtype in (_BEHAVIORS | _CANDIDATES).items()
    }
    profile = tf.cast(densify(transformed["user_profile"]), tf.int32)
    inputs["user_profile"] = tf.reshape(profile, [-1, profile.shape[-1] or 5])
    inputs["behavior_mask"] = tf.not_equal(inputs["behavior_item_ids"], 0)
    inputs["candidate_mask"] = present(transformed["candidate_item_ids"])
    return inputs


def densify(feature: Feature) -> tf.Tensor:
    """Return a feature as a dense tensor, padded with 0 on the right."""
    if isinstance(feature, tf.SparseTensor):
        return tf.sparse.to_dense(feature)
    if isinstance(feature, tf.RaggedTensor):
        return feature.to_tensor()
    return tf.convert_to_tensor(feature)


def present(feature: Feature) -> tf.Tensor:
    """Return which positions of the densified feature hold a given value.

    Args:
        feature: sparse, ragged or dense (B, n).

    Returns:
        bool (B, n). A sparse or ragged value counts even if it is 0; in a
        dense feature 0 is padding.
    """
    if isinstance(feature, tf.SparseTensor):
        return tf.sparse.to_dense(
            feature.with_values(tf.ones_like(feature.values, tf.bool)),
            default_value=False,
        )
    if isinstance(feature, tf.RaggedTensor):
        return tf.sequence_mask(
            feature.row_lengths(), tf.shape(feature.to_tensor())[1]
        )
    return tf.not_equal(feature, 0)
