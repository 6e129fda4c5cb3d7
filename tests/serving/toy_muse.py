"""A model with MUSE's signatures and formulas simple enough to repeat.

A candidate's score is a logistic function of how often it occurs in the
history, the user and the features; what explain retrieves are the K newest
behaviors of the candidate's value modulo 3.

It has the real user cache; a behavior's row is the lowest 31 bits of its id,
and features of behaviors share 16 bits.
"""

from __future__ import annotations

import pathlib

import numpy as np
import tensorflow as tf

from serving.export.feature_names import single_categories
from serving.export.request import (
    EXAMPLES_INPUTS,
    USER_CACHE_INPUTS,
    prefetch_inputs,
    prefetch_rows_inputs,
    rank_cached_inputs,
    rank_inputs,
)
from serving.export.user_cache import STATISTICS, UserCache, UserCacheConfig
from serving.export.words import WordFormat

K, TIERS, DIM = 4, 3, 8
TABLE_STAMP = 12345
ROW_BITS, FEATURE_BITS = 31, 16
CACHE = UserCacheConfig(users=256, ways=4, max_length=4096)
USER = tuple(f"profile_{i}" for i in range(1, 6))
BEHAVIOR = ("category",)
_IDS = tf.int64
_ITEM_IDS = {"item_ids": tf.TensorSpec([None], _IDS)}


def _row(item_ids):
    return item_ids & ((1 << ROW_BITS) - 1)


class ToyMuse(tf.Module):
    def __init__(self, cache=CACHE, user=USER, behavior=BEHAVIOR):
        super().__init__()
        bits = dict.fromkeys(behavior, FEATURE_BITS // max(1, len(behavior)))
        self.cache = UserCache(cache, WordFormat(ROW_BITS, bits), len(user))
        self._features = single_categories(user, behavior=behavior)
        self._user = tuple(f"user_{name}" for name in user)
        self._behavior = tuple(f"behavior_{name}" for name in behavior)

    def signatures(self):
        features = self._features
        inputs = {
            "rank": rank_inputs(features),
            "explain": rank_inputs(features),
            "embed": _ITEM_IDS,
            "prefetch": prefetch_inputs(features),
            "prefetch_rows": prefetch_rows_inputs(features),
            "resolve_items": _ITEM_IDS,
            "rank_cached": rank_cached_inputs(features),
            "user_cache": USER_CACHE_INPUTS,
            "serving_default": EXAMPLES_INPUTS,
        }
        return {
            name: tf.function(
                getattr(self, name), autograph=False
            ).get_concrete_function(**specs)
            for name, specs in inputs.items()
        }

    def _profile(self, inputs):
        """Features of users (B, U)."""
        columns = [inputs[name] for name in self._user]
        none = tf.zeros([tf.size(inputs["user_id"]), 0], _IDS)
        return tf.stack(columns, axis=1) if columns else none

    def _behaviors(self, inputs):
        """Features of behaviors, (B, L) each."""
        return [inputs[name] for name in self._behavior]

    def _store(self, inputs, rows, mask):
        newest = tf.cumsum(tf.cast(mask, _IDS), axis=1, reverse=True)
        lengths, generations = self.cache.write(
            inputs["user_id"],
            self._profile(inputs),
            rows,
            self._behaviors(inputs),
            mask & (newest <= self.cache.config.max_length),
        )
        return {
            "cached_length": tf.cast(lengths, tf.int32),
            "generation": generations,
        }

    def prefetch(self, **inputs):
        items = inputs["behavior_item_ids"]
        return self._store(inputs, _row(items), items != 0)

    def prefetch_rows(self, **inputs):
        same = tf.debugging.assert_equal(
            inputs["table_stamp"],
            tf.constant(TABLE_STAMP, _IDS),
            "`table_stamp` must be that of `resolve_items`",
        )
        with tf.control_dependencies([same]):
            rows = tf.cast(inputs["behavior_rows"], _IDS)
        return self._store(inputs, tf.maximum(rows, 0), rows >= 0)

    def resolve_items(self, item_ids):
        known = tf.where(item_ids > 0, _row(item_ids), 0)
        return {
            "row": tf.cast(known, tf.int32),
            "table_stamp": tf.ones_like(item_ids) * TABLE_STAMP,
        }

    def rank_cached(self, user_id, candidate_item_ids):
        found = self.cache.read(user_id)
        # Real behaviors keep a row of 0 out of the way of padding.
        nothing = -tf.ones_like(found.rows)
        score = self._score(
            user_id,
            found.user,
            tf.where(found.mask, found.rows, nothing),
            [tf.where(found.mask, ids, 0) for ids in found.behaviors],
            _row(candidate_item_ids),
            real=found.mask,
        )
        real = found.hit[:, None] & (candidate_item_ids != 0)
        return {
            "click_probability": tf.where(real, score, 0.0),
            "cache_hit": found.hit,
            "generation": found.generation,
        }

    def user_cache(self, user_id):
        known = self.cache.peek(user_id)
        names = ("capacity", "occupied", "max_length", "bytes", *STATISTICS)
        return {
            "cached_length": tf.cast(known["length"], tf.int32),
            "generation": known["generation"],
            "age_seconds": known["age_seconds"],
            **{name: known[name] for name in names},
        }

    def _score(self, user_id, profile, items, behaviors, candidates, real=None):
        same = tf.cast(candidates[:, :, None] == items[:, None, :], tf.float32)
        real = tf.cast(items != 0 if real is None else real, tf.float32)
        count = tf.reduce_sum(same * real[:, None, :], -1)
        user = tf.cast(user_id % 7, tf.float32)[:, None]
        length = tf.reduce_sum(real, -1)[:, None]
        extra = tf.reduce_sum(profile, -1)
        for values in behaviors:
            extra += tf.reduce_sum(values, -1)
        extra = tf.cast(extra, tf.float32)[:, None]
        logit = count - 0.1 * user + 0.01 * length + 0.001 * extra
        score = tf.sigmoid(logit)
        return tf.where(candidates != 0, score, tf.zeros_like(score))

    def rank(self, **inputs):
        return {
            "click_probability": self._score(
                inputs["user_id"],
                self._profile(inputs),
                inputs["behavior_item_ids"],
                self._behaviors(inputs),
                inputs["candidate_item_ids"],
            )
        }

    def explain(self, **inputs):
        items = inputs["behavior_item_ids"]
        candidates = inputs["candidate_item_ids"]
        match = (items[:, None, :] % 3 == candidates[:, :, None] % 3) & (
            (items != 0)[:, None, :] & (candidates != 0)[:, :, None]
        )
        length = tf.shape(items)[1]
        places = tf.where(match, tf.range(length)[None, None, :], -1)
        padded = tf.pad(places, [[0, 0], [0, 0], [0, K]], constant_values=-1)
        indices = tf.math.top_k(padded, K).values
        found = indices >= 0
        return {
            **self.rank(**inputs),
            "behavior_indices": tf.cast(indices, tf.int32),
            "similarities": tf.cast(found, tf.float32) * 0.5,
            "attention": tf.cast(found, tf.float32) / K,
            "tiers": tf.repeat(
                tf.reduce_sum(tf.cast(found, tf.float32), -1)[:, :, None],
                TIERS,
                axis=2,
            ),
        }

    def embed(self, item_ids):
        found = item_ids > 0
        vector = tf.cast(item_ids, tf.float32)[:, None] * tf.ones([1, DIM])
        return {
            "embedding": tf.where(found[:, None], vector, 0.0),
            "found": found,
        }

    def serving_default(self, examples):
        ragged = tf.io.RaggedFeature(_IDS)
        lists = ("behavior_item_ids", "candidate_item_ids", *self._behavior)
        spec = dict.fromkeys(("user_id", *self._user, *lists), ragged)
        parsed = {
            name: values.to_tensor() if name in lists else values.flat_values
            for name, values in tf.io.parse_example(examples, spec).items()
        }
        candidates = parsed["candidate_item_ids"]
        return {**self.rank(**parsed), "candidate_item_ids": candidates}


def expected_score(request) -> np.ndarray:
    """The score of one client request in NumPy."""
    items = np.asarray(request.behavior_item_ids)
    candidates = np.asarray(request.candidate_item_ids)
    real = items[items != 0]
    count = (candidates[:, None] == real[None, :]).sum(1)
    extra = sum(request.user.values())
    extra += sum(map(np.sum, request.behaviors.values()))
    logit = (
        count - 0.1 * (request.user_id % 7) + 0.01 * len(real) + 0.001 * extra
    )
    return (1 / (1 + np.exp(-logit))).astype(np.float32)


def expected_retrieved(request, candidate: int) -> list[int]:
    """Positions that explain retrieves for one candidate, newest first."""
    items = np.asarray(request.behavior_item_ids)
    places = np.flatnonzero((items % 3 == candidate % 3) & (items != 0))
    return places[::-1][:K].tolist()


def export_toy_muse(
    base: pathlib.Path,
    version: int = 1,
    cache: UserCacheConfig = CACHE,
    user: tuple[str, ...] = USER,
    behavior: tuple[str, ...] = BEHAVIOR,
) -> pathlib.Path:
    """Writes a version."""
    model = ToyMuse(cache, user, behavior)
    path = base / str(version)
    tf.saved_model.save(model, str(path), signatures=model.signatures())
    return path
