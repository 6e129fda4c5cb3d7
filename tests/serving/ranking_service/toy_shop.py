"""A model with features of every kind, and formulas simple enough to repeat.

A score is a logistic function of a sum over all features; the second label's
is that of the negative sum. Its cache keeps the sum over a user and history.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import yaml

from schemas.hashing import stable_id
from schemas.ranking_schema import RankingSchema

TEXT = """
name: shop
user: {column: uid, type: string}
item: {column: sku, type: string}
labels: {click: , buy: }
features:
  user:
    town: {type: string}
    tags: {many: 3}
    height: {type: float}
  item: {brand: }
  context:
    hour: {time: hour}
    day: {time: weekday}
    device: {type: string}
    words: {type: float}
  candidate:
    discount: {type: float}
    position: {training_only: true}
  behavior:
    brand:
    action: {type: string}
    price: {type: float, buckets: 4}
    age: {time: since}
log:
  timezone: Asia/Tokyo
  train: [2026-03-01, 2026-03-02]
  eval: [2026-03-03, 2026-03-03]
"""
DECLARED = RankingSchema.model_validate(yaml.safe_load(TEXT))
_USER = {
    "user_town": ([None], tf.int64),
    "user_tags": ([None, 3], tf.int64),
    "user_height": ([None], tf.float32),
}
_BEHAVIOR = {
    "behavior_item_ids": ([None, None], tf.int64),
    "behavior_action": ([None, None], tf.int64),
    "behavior_price": ([None, None], tf.float32),
    "behavior_age": ([None, None], tf.float32),
}
_CANDIDATES = {
    "context_hour": ([None], tf.int64),
    "context_day": ([None], tf.int64),
    "context_device": ([None], tf.int64),
    "context_words": ([None], tf.float32),
    "candidate_discount": ([None, None], tf.float32),
    "candidate_item_ids": ([None, None], tf.int64),
}
_ID = {"user_id": ([None], tf.int64)}
SIGNATURES = {
    "rank": {**_ID, **_USER, **_BEHAVIOR, **_CANDIDATES},
    "prefetch": {**_ID, **_USER, **_BEHAVIOR},
    "rank_cached": {**_ID, **_CANDIDATES},
}


def _bits(np_or_tf, ids):
    """A number from 0 to 0.31 for each id."""
    return np_or_tf.cast(ids & 31, np_or_tf.float32) / 100


class _Numpy:
    float32 = np.float32

    @staticmethod
    def cast(values, kind):
        return np.asarray(values).astype(kind)


def _known(values, missing):
    return tf.where(tf.math.is_nan(values), missing, values)


class ToyShop(tf.Module):
    def __init__(self):
        super().__init__()
        self.sums = tf.Variable(tf.zeros([256]))
        self.lengths = tf.Variable(-tf.ones([256], tf.int32))

    def signatures(self):
        return {
            name: tf.function(
                getattr(self, name), autograph=False
            ).get_concrete_function(
                **{n: tf.TensorSpec(*spec, name=n) for n, spec in specs.items()}
            )
            for name, specs in SIGNATURES.items()
        }

    def _history(self, inputs):
        real = tf.cast(inputs["behavior_item_ids"] != 0, tf.float32)
        events = (
            _bits(tf, inputs["behavior_item_ids"])
            + 2 * _bits(tf, inputs["behavior_action"])
            + _known(inputs["behavior_price"], -1.0) / 10
            + tf.math.log(1 + _known(inputs["behavior_age"], 0.0)) / 100
        )
        return (
            _bits(tf, inputs["user_town"])
            + 3 * tf.reduce_sum(_bits(tf, inputs["user_tags"]), -1)
            + _known(inputs["user_height"], -2.0) / 10
            + tf.reduce_sum(real * events, -1)
        )

    def _scores(self, inputs, sums):
        context = (
            tf.cast(inputs["context_hour"], tf.float32) / 20
            + tf.cast(inputs["context_day"], tf.float32) / 30
            + _bits(tf, inputs["context_device"])
            + _known(inputs["context_words"], -3.0) / 10
        )
        items = inputs["candidate_item_ids"]
        logits = (
            (sums + context)[:, None]
            + _bits(tf, items)
            + _known(inputs["candidate_discount"], -4.0) / 10
        )
        real = tf.cast(items != 0, tf.float32)
        return {
            "click_probability": tf.sigmoid(logits) * real,
            "buy_probability": tf.sigmoid(-logits) * real,
        }

    def rank(self, **inputs):
        return self._scores(inputs, self._history(inputs))

    def prefetch(self, **inputs):
        places = tf.cast(inputs["user_id"] & 255, tf.int32)[:, None]
        items = inputs["behavior_item_ids"]
        lengths = tf.reduce_sum(tf.cast(items != 0, tf.int32), -1)
        sums, lengths = self._history(inputs), tf.identity(lengths)
        written = [
            self.sums.scatter_nd_update(places, sums),
            self.lengths.scatter_nd_update(places, lengths),
        ]
        with tf.control_dependencies(written):
            generation = inputs["user_id"] & 255 | 256
        return {"cached_length": lengths, "generation": generation}

    def rank_cached(self, **inputs):
        places = tf.cast(inputs["user_id"] & 255, tf.int32)
        return {
            **self._scores(inputs, tf.gather(self.sums, places)),
            "cache_hit": tf.gather(self.lengths, places) >= 0,
            "generation": inputs["user_id"] & 255 | 256,
        }


def export_toy_shop(base: pathlib.Path) -> None:
    """Writes version 1."""
    model = ToyShop()
    tf.saved_model.save(model, str(base / "1"), signatures=model.signatures())


def logits(
    user: Mapping[str, Any],
    events: list[tuple[str, str, float, float]],
    context: Mapping[str, Any],
    items: list[str],
    discounts: list[float],
) -> np.ndarray:
    """The sums, float32 (C,), by the texts that callers give.

    Events are item, action, price and age; context has hour, day, device and
    words.
    """

    def bits(field, text):
        return _bits(_Numpy, np.int64(stable_id(field, text)))

    total = bits("user_town", user.get("town", ""))
    total += 3 * _bits(_Numpy, np.array(user.get("tags", [0]))).sum()
    total += user.get("height", -2.0) / 10
    for item, action, price, age in events:
        total += bits("item_id", item) + 2 * bits("behavior_action", action)
        total += price / 10 + np.log1p(age) / 100
    total += context["hour"] / 20 + context["day"] / 30
    total += bits("context_device", context.get("device", ""))
    total += context.get("words", -3.0) / 10
    return np.array(
        [
            total + bits("item_id", item) + discount / 10
            for item, discount in zip(items, discounts, strict=True)
        ]
    )
