"""Turns the tensors of a request into the inputs of a model."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from muse_keras.tensorflow import feature_matches
from schemas.columns import Feature, Features
from serving.export.encodings import Encoding
from serving.export.item_features import ItemFeatures
from serving.export.user_cache import Histories

if TYPE_CHECKING:  # Keeps rankers out of the retrieval model's code key.
    from muse_keras.models import BaseRanker

Tensors = dict[str, tf.Tensor]


class RequestInputs:
    """Encodes the features in requests, and looks up those of items.

    Args:
        model: the ranker, whose item table maps ids to rows.
        features: `Features`.
        encodings: encodings by the names of `Features.learned`.
        item_features: `ItemFeatures`.
    """

    def __init__(
        self,
        model: "BaseRanker",
        features: Features,
        encodings: Mapping[str, Encoding],
        item_features: ItemFeatures,
    ) -> None:
        self._table = model.table
        self._features = features
        self._encodings = encodings
        self._item_features = item_features
        of_items = [name for name in features.behavior if name in features.item]
        # In the order of the model's columns.
        self._of_behaviors = {
            name: encodings[f"{group}_{name}"]
            for group, names in (
                ("item", of_items),
                ("behavior", features.of_events),
            )
            for name in names
        }

    def stored_sizes(self) -> dict[str, int]:
        """Return the number of indices of each feature in `Histories`.

        These are the behavior features with one value. Lists, which only items
        have, are looked up when they are needed.
        """
        return {
            name: encoding.size
            for name, encoding in self._of_behaviors.items()
            if not encoding.feature.many
        }

    def resolve(
        self, request: Tensors, rows: tf.Tensor, mask: tf.Tensor
    ) -> Histories:
        """Return encoded users and histories; `rows` and `mask` are (B, L).

        Behavior features come from the request or, for item features, from the
        rows of the item table.
        """
        features = self._features
        stored = self.stored_sizes()
        looked_up = [name for name in features.of_items if name in stored]
        found = self._item_features(rows, looked_up) if looked_up else {}
        behaviors = [
            found[name]
            if name in found
            else self._of_behaviors[name](request[f"behavior_{name}"])
            for name in stored
        ]
        users = request["user_id"]
        user = self._encoded("user", features.user, request, users)
        indices = _joined(features.user, user, True, 1)
        if indices is None:
            indices = tf.zeros([tf.size(users), 0], tf.int64)
        numbers = _joined(features.user, user, False, 1)
        return Histories(indices, rows, behaviors, mask, numbers)

    def combine(
        self, request: Tensors, histories: Histories, fresh_index: Any
    ) -> Tensors:
        """Return the model's inputs for the candidates of a request."""
        features = self._features
        candidate_ids = request["candidate_item_ids"]
        candidate_rows = self._table.lookup(candidate_ids, fresh_index)
        items = self._item_features(candidate_rows)
        behaviors = self._behaviors(histories)
        inputs = {
            "user_features": tf.cast(histories.user, tf.int32),
            "user_numbers": histories.user_numbers,
            "behavior_rows": tf.cast(histories.rows, tf.int32),
            "behavior_mask": histories.mask,
            "candidate_rows": candidate_rows,
            "candidate_features": _joined(features.item, items, True, 2),
            "candidate_numbers": _joined(features.item, items, False, 2),
            "candidate_mask": tf.not_equal(candidate_ids, 0),
            "behavior_features": _side_by_side(behaviors.values(), 2),
            "context_features": self._context(request, True),
            "context_numbers": self._context(request, False),
        }
        if features.matches:
            matches = [
                feature_matches(
                    behaviors[field],
                    histories.mask,
                    items[field],
                    self._encodings[f"item_{field}"].size,
                )
                for field in features.matches
            ]
            inputs["candidate_matches"] = tf.stack(matches, axis=2)
        return {n: value for n, value in inputs.items() if value is not None}

    def _behaviors(self, histories: Histories) -> Tensors:
        """Return indices (B, L) or (B, L, many) of all behavior features."""
        stored = dict(
            zip(self.stored_sizes(), histories.behaviors, strict=True)
        )
        others = [name for name in self._of_behaviors if name not in stored]
        if others:
            stored |= self._item_features(histories.rows, others)
        return {name: stored[name] for name in self._of_behaviors}

    def _context(self, request: Tensors, is_index: bool) -> tf.Tensor | None:
        """Return indices or numbers (B, C, n) of context and candidates."""
        features = self._features
        candidates = request["candidate_item_ids"]
        parts = []
        for group, own, things in (
            ("context", features.context, request["user_id"]),
            ("candidate", features.candidate, candidates),
        ):
            own = {n: one for n, one in own.items() if one.is_index == is_index}
            encoded = self._encoded(group, own, request, things)
            columns = _joined(own, encoded, is_index, things.shape.rank)
            if columns is None:
                continue
            if group == "context":
                every = tf.zeros_like(candidates)[..., tf.newaxis]
                columns = columns[:, tf.newaxis] + tf.cast(every, columns.dtype)
            parts.append(columns)
        return tf.concat(parts, axis=-1) if parts else None

    def _encoded(
        self,
        group: str,
        features: Mapping[str, Feature],
        request: Tensors,
        things: tf.Tensor,
    ) -> Tensors:
        """Return encoded features; those for training only are missing."""
        return {
            name: _missing(things, one)
            if one.training_only
            else self._encodings[f"{group}_{name}"](request[f"{group}_{name}"])
            for name, one in features.items()
        }


def _missing(things: tf.Tensor, feature: Feature) -> tf.Tensor:
    """Return indices 0, the missing value of a feature."""
    if not feature.many:
        return tf.zeros_like(things)
    return tf.repeat(
        tf.zeros_like(things)[..., tf.newaxis], feature.many, axis=-1
    )


def _joined(
    features: Mapping[str, Feature],
    values: Mapping[str, tf.Tensor],
    is_index: bool,
    rank: int,
) -> tf.Tensor | None:
    """Concatenate the indices, or the numbers, among encoded values."""
    return _side_by_side(
        (values[n] for n, one in features.items() if one.is_index == is_index),
        rank,
    )


def _side_by_side(values: Iterable[tf.Tensor], rank: int) -> tf.Tensor | None:
    """Concatenate values of rank `rank`, or one more, on a last axis."""
    columns = [*values]
    if not columns:
        return None
    if all(one.shape.rank == rank for one in columns):
        return tf.stack(columns, axis=rank)
    return tf.concat(
        [
            one[..., tf.newaxis] if one.shape.rank == rank else one
            for one in columns
        ],
        axis=rank,
    )
