"""Turns transformed features into the dense inputs of the ranking models."""

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import tensorflow as tf

Feature: TypeAlias = tf.Tensor | tf.SparseTensor | tf.RaggedTensor


class FeatureNames(NamedTuple):
    """Names of transformed features by group of a model's inputs.

    A group maps the names of its features, in the model's order, to the number
    of columns that the model gets per user, behavior or candidate.

    Attributes:
        user: indices of user features.
        item: indices of the candidates' item features, in the order of
            `item_sizes`.
        context: indices per candidate: context, then candidate features.
        behavior: indices of behavior features.
        matches: counts of matching behaviors.
        user_numbers: numbers of user features.
        item_numbers: numbers of the candidates' item features.
        context_numbers: numbers per candidate: context, then candidate
            features.
    """

    user: Mapping[str, int] = {}
    item: Mapping[str, int] = {}
    context: Mapping[str, int] = {}
    behavior: Mapping[str, int] = {}
    matches: Mapping[str, int] = {}
    user_numbers: Mapping[str, int] = {}
    item_numbers: Mapping[str, int] = {}
    context_numbers: Mapping[str, int] = {}


def dense_model_inputs(
    transformed: Mapping[str, Feature], names: FeatureNames
) -> dict[str, tf.Tensor]:
    """Turn a batch of transformed features into the models' inputs.

    The trainer's input and the `serving_default` signature both call this.
    Features that are not model inputs, such as `user_id` and `clicks`, are
    left out (use `densify` for labels).

    Args:
        transformed: `behavior_item_ids`, `candidate_item_ids` and the features
            in `names`, sparse, ragged or dense: (B, L * columns) of behaviors,
            (B, C * columns) of candidates, (B, columns) of users. Ids are raw
            int64; the rest are indices, counts and numbers.
        names: `FeatureNames`.

    Returns:
        dict: `behavior_item_ids` int64 (B, L) and `candidate_item_ids` int64
        (B, C), padded with 0; `behavior_mask` bool (B, L), True if the id is
        not 0; `candidate_mask` bool (B, C), True for each given candidate (in
        dense input, for ids other than 0); and for each group with names, the
        concatenated columns: `user_features` int32 (B, U),
        `behavior_features` int32 (B, L, F), `candidate_features` int32
        (B, C, I), `context_features` int32 (B, C, X), `candidate_matches`
        float32 (B, C, M), `user_numbers` float32 (B, V), `candidate_numbers`
        float32 (B, C, N) and `context_numbers` float32 (B, C, Y).

    Raises:
        ValueError: if a feature is missing.
    """
    behaviors, candidates = "behavior_item_ids", "candidate_item_ids"
    groups = {
        "user_features": (names.user, "", tf.int32),
        "behavior_features": (names.behavior, behaviors, tf.int32),
        "candidate_features": (names.item, candidates, tf.int32),
        "context_features": (names.context, candidates, tf.int32),
        "candidate_matches": (names.matches, candidates, tf.float32),
        "user_numbers": (names.user_numbers, "", tf.float32),
        "candidate_numbers": (names.item_numbers, candidates, tf.float32),
        "context_numbers": (names.context_numbers, candidates, tf.float32),
    }
    ids = (behaviors, candidates)
    required = [*ids, *(name for own, *_ in groups.values() for name in own)]
    missing = [name for name in required if name not in transformed]
    if missing:
        raise ValueError(
            f"`transformed` must hold the feature {missing[0]!r}. "
            f"Received: {sorted(transformed)}"
        )
    dense = {name: densify(transformed[name]) for name in required}
    inputs = {name: tf.cast(dense[name], tf.int64) for name in ids}
    inputs["behavior_mask"] = tf.not_equal(inputs[behaviors], 0)
    inputs["candidate_mask"] = present(transformed[candidates])
    for group, (own, things, dtype) in groups.items():
        if own:
            # int64 until here, as TensorFlow concatenates int32 on the host.
            wide = tf.int64 if dtype == tf.int32 else dtype
            values = [
                _columns(tf.cast(dense[name], wide), width, inputs.get(things))
                for name, width in own.items()
            ]
            inputs[group] = tf.cast(tf.concat(values, axis=-1), dtype)
    return inputs


def _columns(
    values: tf.Tensor, width: int, things: tf.Tensor | None
) -> tf.Tensor:
    """Reshape (B, T * width) to (B, T, width), for T ids (B, T) or one user."""
    if things is None:
        return tf.ensure_shape(values, [None, width])
    if width == 1:
        return values[..., tf.newaxis]
    shape = tf.shape(things)
    return tf.reshape(values, [shape[0], shape[1], width])


def densify(feature: Feature) -> tf.Tensor:
    """Return a feature as a dense tensor, padded with 0 on the right."""
    if isinstance(feature, tf.SparseTensor):
        return tf.sparse.to_dense(feature)
    if isinstance(feature, tf.RaggedTensor):
        return feature.to_tensor()
    return tf.convert_to_tensor(feature)


def present(feature: Feature) -> tf.Tensor:
    """Return which positions of the densified feature are not padding.

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
