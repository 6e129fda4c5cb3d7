"""The preprocessing function of TF-Transform, which learns the encodings.

Index 0 means missing. Value i of a vocabulary has the index i + 1, and all
unseen values share the index after the last one. Buckets are numbered from 1.
Numbers have a flag, which is 1 if the number is given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_transform as tft

from muse_keras.tensorflow import feature_encodings, request_features
from schemas.columns import Feature, Features
from tfx_pipeline import beam_internals, features, learned_values

# Called here, because executors of Transform import this module first.
beam_internals.let_transform_learn_in_steps()

Inputs = dict[str, tf.SparseTensor]
_ROUNDING = 1e-6


def preprocessing_fn(
    inputs: Inputs, custom_config: dict[str, Any]
) -> dict[str, tf.Tensor | tf.SparseTensor]:
    """Converts raw features of requests to features of the model.

    Args:
        inputs: request-grouped features, SparseTensors (B, n), in which the
            values of all candidates or behaviors are concatenated.
        custom_config: ``max_history``, ``vocabulary_size``,
            ``vocabulary_frequency_threshold`` and ``features``, the declared
            `Features` as JSON values.

    Returns:
        Indices int64 or numbers float32: ``user_<f>``, dense (B, width); and,
        sparse with ``width`` values each, ``context_<f>`` and ``candidate_<f>``
        of the candidates and ``behavior_<f>`` of the newest ``max_history``
        real behaviors, oldest first. Also raw ids (``behavior_item_ids``,
        ``candidate_item_ids``, ``user_id``), counts ``candidate_<f>_matches``
        float32, and unchanged labels and weights. Learned values are written
        as vocabularies; see `learned_values`.
    """
    declared = Features.model_validate(custom_config["features"])
    threshold = custom_config["vocabulary_frequency_threshold"]
    settings = {
        "top_k": custom_config["vocabulary_size"],
        "frequency_threshold": threshold if threshold > 1 else None,
    }
    things = _Things.of(inputs, custom_config["max_history"])
    given = (
        features.USER_ID,
        features.CANDIDATE_ITEM_IDS,
        features.CLICKS,
        features.WEIGHTS,
    )
    outputs: dict[str, tf.Tensor | tf.SparseTensor] = {
        name: values
        for name, values in inputs.items()
        if name in given or name.startswith("label_")
    }
    outputs[features.BEHAVIOR_ITEM_IDS] = things.behaviors.of(
        things.behavior_ids
    )
    numbers = []
    for name, feature in declared.learned().items():
        group, _, own = name.partition("_")
        places = [name]
        if group == "item":
            places = [f"behavior_{own}"] if own in declared.behavior else []
            places.append(f"candidate_{own}")
        raw = [things.dense(inputs[place], place, feature) for place in places]
        encoding = _learn(name, feature, raw, settings)
        if encoding.numbers is not None:
            numbers.append(_numbered(name, encoding.numbers))
        encoded = [encoding.encode(values) for values in raw]
        for place, values in zip(places, encoded, strict=True):
            outputs[place] = things.output(values, place)
        if group == "item" and own in declared.matches:
            matches = request_features.feature_matches(
                encoded[0], things.behaviors.mask, encoded[-1], encoding.size
            )
            outputs[f"candidate_{own}_matches"] = things.candidates.of(matches)
    if numbers:
        # One vocabulary for all, because each one takes a dozen Beam steps.
        tft.vocabulary(
            tf.concat(numbers, axis=0), vocab_filename=learned_values.NUMBERS
        )
    return outputs


class _Things(NamedTuple):
    """Behaviors and candidates of a batch.

    Attributes:
        behavior_ids: int64 (B, L).
        behaviors: the newest real behaviors, of L.
        candidates: those that are no padding, of C.
    """

    behavior_ids: tf.Tensor
    behaviors: _Kept
    candidates: _Kept

    @classmethod
    def of(cls, inputs: Inputs, max_history: int) -> _Things:
        behavior_ids = tf.sparse.to_dense(inputs[features.BEHAVIOR_ITEM_IDS])
        kept = request_features.newest_mask(behavior_ids, max_history)
        candidates = inputs[features.CANDIDATE_ITEM_IDS]
        real = tf.sequence_mask(
            _row_lengths(candidates),
            tf.cast(candidates.dense_shape[1], tf.int32),
        )
        return cls(behavior_ids, _Kept.by(kept), _Kept.by(real))

    def dense(
        self, values: tf.SparseTensor, place: str, feature: Feature
    ) -> tf.Tensor:
        """Returns raw values as a dense tensor, filled with missing values.

        The shape is (B, T), or (B, T, raw_width) for lists and vectors; T is
        the number of behaviors or candidates, and 1 for users.
        """
        rows, things = values.dense_shape[0], tf.constant(1, tf.int64)
        static = None
        if place.startswith("user_"):
            static = 1
        else:
            things = tf.shape(self._kept(place).mask, tf.int64)[1]
        width = feature.raw_width
        shape = tf.stack([rows, things * width])
        dense = tf.sparse.to_dense(
            tf.SparseTensor(values.indices, values.values, shape),
            default_value=np.nan if feature.dtype == "float32" else 0,
        )
        if width == 1 and not feature.dim:
            return tf.ensure_shape(dense, [None, static])
        dense = tf.reshape(dense, tf.stack([rows, things, width]))
        return tf.ensure_shape(dense, [None, static, width])

    def output(
        self, values: tf.Tensor, place: str
    ) -> tf.Tensor | tf.SparseTensor:
        """Returns encoded values (B, T) or (B, T, width) as an output."""
        if place.startswith("user_"):
            width = values.shape[2] if values.shape.rank == 3 else 1
            return tf.reshape(values, [-1, width])
        return self._kept(place).of(values)

    def _kept(self, place: str) -> _Kept:
        is_behavior = place.startswith("behavior_")
        return self.behaviors if is_behavior else self.candidates


class _Kept(NamedTuple):
    """Places that are kept, and where they are after a move to the left.

    Attributes:
        mask: bool (B, T).
        before: int64 (n, 2), row and place, in order.
        after: int64 (n, 2).
        shape: int64 (2,), B and the length of the longest row.
    """

    mask: tf.Tensor
    before: tf.Tensor
    after: tf.Tensor
    shape: tf.Tensor

    @classmethod
    def by(cls, mask: tf.Tensor) -> _Kept:
        counts = tf.cumsum(tf.cast(mask, tf.int64), axis=1)
        before = tf.where(mask)
        places = tf.gather_nd(counts, before) - 1
        rows = tf.shape(mask, tf.int64)[0]
        longest = tf.reduce_max(tf.concat([[0], tf.reshape(counts, [-1])], 0))
        return cls(
            mask,
            before,
            tf.stack([before[:, 0], places], axis=1),
            tf.stack([rows, longest]),
        )

    def of(self, values: tf.Tensor) -> tf.SparseTensor:
        """Returns values (B, T), or all of (B, T, width) side by side."""
        found = tf.gather_nd(values, self.before)
        after, shape = self.after, self.shape
        if values.shape.rank == 3:
            width = values.shape[2]
            columns = self.after[:, 1:] * width + tf.range(
                width, dtype=tf.int64
            )
            rows = tf.repeat(self.after[:, 0], width)
            after = tf.stack([rows, tf.reshape(columns, [-1])], axis=1)
            found = tf.reshape(found, [-1])
            shape = shape * [1, width]
        return tf.SparseTensor(after, found, shape)


class _Encoding(NamedTuple):
    """The learned encoding of a feature.

    Attributes:
        encode: function from raw values to indices of the same shape, or to
            numbers.
        size: number of indices, 0 for numbers.
        numbers: float32 (n,), bucket boundaries, or mean and scale, or None.
    """

    encode: Callable[[tf.Tensor], tf.Tensor]
    size: int | tf.Tensor = 0
    numbers: tf.Tensor | None = None


def _learn(
    name: str,
    feature: Feature,
    parts: list[tf.Tensor],
    settings: dict[str, Any],
) -> _Encoding:
    flat = tf.concat([tf.reshape(part, [-1]) for part in parts], axis=0)
    if feature.kind == "vocabulary":
        given = tf.boolean_mask(flat, flat != 0)
        # With weights, TF-Transform counts the values of a batch in TensorFlow
        # and gives Beam each different one once.
        ones = tf.ones_like(given, tf.float32)
        vocabulary = tft.vocabulary(
            given, weights=ones, vocab_filename=name, **settings
        )
        size = vocabulary_size(name)
        return _Encoding(lambda values: _apply(values, vocabulary, size), size)
    if feature.kind == "hashed":
        buckets = feature.hashed
        return _Encoding(
            lambda ids: feature_encodings.hashed_index(ids, buckets),
            buckets + 1,
        )
    if feature.kind == "vector":
        return _Encoding(feature_encodings.flagged)
    flat = tf.boolean_mask(flat, tf.math.is_finite(flat))
    if feature.kind == "buckets":
        boundaries = _boundaries(flat, feature.buckets)
        return _Encoding(
            lambda values: feature_encodings.bucket_index(values, boundaries),
            tf.size(boundaries, tf.int64) + 2,
            boundaries,
        )
    if feature.log:
        flat = feature_encodings.log_of(flat)
    mean, scale = _finite(tft.mean(flat)), _finite(tf.sqrt(tft.var(flat)))
    # If all values are equal, the variance may be only a rounding error.
    scale *= tf.cast(scale > _ROUNDING * tf.abs(mean), tf.float32)
    return _Encoding(
        lambda values: feature_encodings.standardized(
            values, mean, scale, feature.log
        ),
        numbers=tf.stack([mean, scale]),
    )


def _boundaries(values: tf.Tensor, buckets: int) -> tf.Tensor:
    """Returns the distinct quantiles, float32 (n,), in ascending order."""
    # Without values, all quantiles are 0.
    found = tft.quantiles(values, buckets, epsilon=0.1 / buckets)
    return tf.unique(tf.reshape(tf.cast(found, tf.float32), [-1]))[0]


def _finite(value: tf.Tensor) -> tf.Tensor:
    value = tf.cast(value, tf.float32)
    return tf.where(tf.math.is_finite(value), value, tf.zeros_like(value))


def _numbered(name: str, values: tf.Tensor) -> tf.Tensor:
    """Returns texts ``name i value`` (n,) for values float32 (n,)."""
    places = tf.strings.as_string(tf.range(tf.size(values)))
    # Nine significant digits are exact; this writes ten.
    texts = tf.strings.as_string(values, precision=9, scientific=True)
    names = tf.fill(tf.shape(places), name)
    return tf.strings.join([names, places, texts], separator=" ")


def vocabulary_size(name: str) -> tf.Tensor:
    """Returns the number of indices of a vocabulary, int32 ().

    The indices of missing and unseen values are included.
    """
    return (
        tf.cast(tft.experimental.get_vocabulary_size_by_name(name), tf.int32)
        + 2
    )


def _apply(
    values: tf.Tensor, vocabulary: tf.Tensor, size: tf.Tensor
) -> tf.Tensor:
    # With num_oov_buckets=1 TensorFlow computes a hash of every value, which
    # takes three quarters of the time of all features.
    known = tft.apply_vocabulary(values, vocabulary)
    unseen = tf.cast(size - 1, known.dtype)
    indices = tf.where(known < 0, unseen, known + 1)
    return tf.where(values == 0, tf.zeros_like(known), indices)


def _row_lengths(values: tf.SparseTensor) -> tf.Tensor:
    return tf.math.bincount(
        tf.cast(values.indices[:, 0], tf.int32),
        minlength=tf.cast(values.dense_shape[0], tf.int32),
    )
