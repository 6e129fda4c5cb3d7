"""From transformed features to the dense inputs of the ranking models."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import tensorflow as tf

Feature: TypeAlias = tf.Tensor | tf.SparseTensor | tf.RaggedTensor


class FeatureNames(NamedTuple):
    """Names of the transformed features of each group of a model's inputs.

    Attributes:
        user: features of the user, (B, n) each; n is often 1.
        item: features of the candidates, in the order of `item_sizes`.
        behavior: features of the behaviors, in their order.
        matches: counts of behaviors, in their order.
    """

    user: Sequence[str] = ()
    item: Sequence[str] = ()
    behavior: Sequence[str] = ()
    matches: Sequence[str] = ()


def dense_model_inputs(
    transformed: Mapping[str, Feature], names: FeatureNames
) -> dict[str, tf.Tensor]:
    """Turn a batch of transformed features into the models' inputs.

    The trainer's input and the `serving_default` signature both call this.
    Features that are not model inputs, such as `user_id` and `clicks`, are
    left out (use `densify` for labels).

    Args:
        transformed: `behavior_item_ids`, `candidate_item_ids` and those of
            `names`, each a sparse, ragged or dense (B, any). Ids are raw
            int64; the rest are vocabulary indices, and matches are counts.
        names: `FeatureNames`.

    Returns:
        dict: `behavior_item_ids` int64 (B, L) and `candidate_item_ids` int64
        (B, C), padded with 0; `behavior_mask`, True where the id is not 0;
        `candidate_mask`, True for the candidates given, whatever their id
        (for dense input: ids other than 0); and the groups that have names:
        `user_features` int32 (B, U), `behavior_features` int32 (B, L, F),
        `candidate_features` int32 (B, C, I), `candidate_matches` float32
        (B, C, M).

    Raises:
        ValueError: if a feature is missing.
    """
    groups = {
        "user_features": (names.user, tf.int32),
        "behavior_features": (names.behavior, tf.int32),
        "candidate_features": (names.item, tf.int32),
        "candidate_matches": (names.matches, tf.float32),
    }
    ids = ("behavior_item_ids", "candidate_item_ids")
    required = [*ids, *(name for group, _ in groups.values() for name in group)]
    missing = [name for name in required if name not in transformed]
    if missing:
        raise ValueError(
            f"`transformed` must hold the feature {missing[0]!r}. "
            f"Received: {sorted(transformed)}"
        )
    dense = {name: densify(transformed[name]) for name in required}
    inputs = {name: tf.cast(dense[name], tf.int64) for name in ids}
    inputs["behavior_mask"] = tf.not_equal(inputs["behavior_item_ids"], 0)
    inputs["candidate_mask"] = present(transformed["candidate_item_ids"])
    for group, (own, dtype) in groups.items():
        if own:
            join = tf.concat if group == "user_features" else tf.stack
            # int64 until the end: TensorFlow joins int32 on the host.
            wide = tf.int64 if dtype == tf.int32 else dtype
            values = [tf.cast(dense[name], wide) for name in own]
            inputs[group] = tf.cast(join(values, axis=-1), dtype)
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
