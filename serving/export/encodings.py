"""Encodings of features: from raw values to a model's indices or numbers.

Encodings run in the graph on requests and on the host on columns of an item
table. Both use the functions that Transform calls as well.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from muse_keras.tensorflow import feature_encodings
from schemas.columns import Feature, Features
from serving.export.vocabulary import Vocabulary

# Kinds of features for which Transform learns something.
_LEARNED = ("vocabulary", "buckets", "number")


class Encoding(tf.Module):
    """The encoding of one feature.

    Attributes:
        feature: `Feature`.
        size: number of indices, including missing and out-of-vocabulary; 0
            for numbers.
        vocabulary: `Vocabulary`, or None.
    """

    def __init__(
        self, name: str, feature: Feature, learned: npt.ArrayLike = ()
    ) -> None:
        super().__init__(name=f"encoding_{name}")
        self.feature = feature
        self.size = num_indices(feature, learned)
        self.vocabulary: Vocabulary | None = None
        self._learned: Any = None
        if feature.kind == "vocabulary":
            self.vocabulary = Vocabulary(name, learned)
        elif feature.kind in _LEARNED:
            self._learned = np.asarray(learned, np.float32)

    def __call__(self, raw: tf.Tensor) -> tf.Tensor:
        """Encode raw values: int64 or float32, (...) or (..., raw_width).

        Returns indices int64 of the same shape, or numbers float32
        (..., width).
        """
        feature = self.feature
        if self.vocabulary is not None:
            return self.vocabulary(raw)
        if feature.kind == "hashed":
            return feature_encodings.hashed_index(raw, feature.hashed)
        if feature.kind == "buckets":
            return feature_encodings.bucket_index(
                raw, tf.constant(self._learned)
            )
        if feature.kind == "number":
            mean, scale = (tf.constant(one) for one in self._learned)
            return feature_encodings.standardized(raw, mean, scale, feature.log)
        return feature_encodings.flagged(raw)

    def on_host(self, raw: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Encode an array, see `__call__`."""
        if self.vocabulary is not None:
            return self.vocabulary.host_indices(raw)
        with tf.device("CPU:0"):
            return np.asarray(self(tf.constant(raw)))


def num_indices(feature: Feature, learned: npt.ArrayLike = ()) -> int:
    """Return the number of indices of a feature; 0 for numbers."""
    if not feature.is_index:
        return 0
    # Plus missing, and the last bucket or out-of-vocabulary.
    return feature.hashed + 1 if feature.hashed else np.size(learned) + 2


def index_sizes(
    features: Features, learned: Mapping[str, npt.ArrayLike]
) -> dict[str, int]:
    """Return `num_indices` by name of `Features.learned`, without numbers."""
    return {
        name: num_indices(one, learned.get(name, ()))
        for name, one in features.learned().items()
        if one.is_index
    }


def model_arguments(
    features: Features, learned: Mapping[str, npt.ArrayLike]
) -> dict[str, Any]:
    """Return the constructor arguments of a ranker that describe features."""
    known = index_sizes(features, learned)

    def sizes(group: str, own: Mapping[str, Feature]) -> dict[str, Any]:
        return {
            name: (size, one.many) if one.many > 1 else size
            for name, one in own.items()
            if (size := known.get(f"{group}_{name}"))
        }

    def numbers(*groups: Mapping[str, Feature]) -> int:
        every = [one for group in groups for one in group.values()]
        return sum(one.width for one in every if not one.is_index)

    of_requests = {**features.context, **features.candidate}
    return {
        "user_sizes": sizes("user", features.user),
        "item_sizes": sizes("item", features.item),
        "behavior_features": tuple(
            name for name in features.behavior if name in features.item
        ),
        "matches": features.matches,
        "context_sizes": {
            **sizes("context", features.context),
            **sizes("candidate", features.candidate),
        },
        "behavior_sizes": sizes("behavior", features.of_events),
        "user_numbers": numbers(features.user),
        "item_numbers": numbers(features.item),
        "context_numbers": numbers(of_requests),
        "training_only": tuple(
            name for name, one in of_requests.items() if one.training_only
        ),
    }


def check_learned(
    features: Features, learned: Mapping[str, npt.ArrayLike]
) -> None:
    """Raise `ValueError` unless `learned` fits the features.

    `Vocabulary` checks the values of vocabularies.
    """
    wanted = {
        name: one.kind
        for name, one in features.learned().items()
        if one.kind in _LEARNED
    }
    if set(learned) != set(wanted):
        raise ValueError(
            f"`learned` must be exactly {sorted(wanted)}. "
            f"Received: {sorted(learned)}"
        )
    for name, kind in wanted.items():
        values = np.asarray(learned[name])
        if kind == "number" and (
            values.shape != (2,) or not np.isfinite(values).all()
        ):
            raise ValueError(
                f"`learned[{name!r}]` must be a mean and a scale. "
                f"Received: {values}"
            )
        if kind == "buckets" and not (np.diff(values) > 0).all():
            raise ValueError(
                f"`learned[{name!r}]` must be rising boundaries. "
                f"Received: {values}"
            )
