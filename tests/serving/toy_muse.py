"""A model with MUSE's signatures and formulas simple enough to repeat.

A candidate's score is a logistic function of how often it occurs in the
history, the user and the profile; what explain retrieves are the K newest
behaviors of the candidate's value modulo 3.

It has the real user cache; a behavior's row is the lowest 31 bits of its id,
and categories and profiles must be less than 2**16.
"""

from __future__ import annotations

import pathlib

import numpy as np
import tensorflow as tf

from serving.export.user_cache import STATISTICS, UserCache, UserCacheConfig
from serving.export.words import WordFormat

K, TIERS, DIM = 4, 3, 8
TABLE_STAMP = 12345
ROW_BITS, CATEGORY_BITS = 31, 16
CACHE = UserCacheConfig(users=256, ways=4, max_length=4096)
_IDS = tf.int64


def _spec(name, *shape):
    return tf.TensorSpec(shape, _IDS, name=name)


_RANK = [
    _spec("user_id", None),
    _spec("user_profile", None, None),
    _spec("behavior_item_ids", None, None),
    _spec("behavior_category_ids", None, None),
    _spec("candidate_item_ids", None, None),
]


_PREFETCH = _RANK[:4]
_PREFETCH_ROWS = [
    *_RANK[:2],
    tf.TensorSpec([None, None], tf.int32, name="behavior_rows"),
    _RANK[3],
    _spec("table_stamp", None),
]


def _row(item_ids):
    return item_ids & ((1 << ROW_BITS) - 1)


class ToyMuse(tf.Module):
    def __init__(self, cache: UserCacheConfig = CACHE):
        super().__init__()
        self.cache = UserCache(cache, WordFormat(ROW_BITS, CATEGORY_BITS), 5)

    def _store(self, user_id, profile, rows, categories, mask):
        newest = tf.cumsum(tf.cast(mask, _IDS), axis=1, reverse=True)
        lengths, generations = self.cache.write(
            user_id,
            profile,
            rows,
            categories,
            mask & (newest <= self.cache.config.max_length),
        )
        return {
            "cached_length": tf.cast(lengths, tf.int32),
            "generation": generations,
        }

    @tf.function(input_signature=_PREFETCH)
    def prefetch(
        self, user_id, user_profile, behavior_item_ids, behavior_category_ids
    ):
        return self._store(
            user_id,
            user_profile,
            _row(behavior_item_ids),
            behavior_category_ids,
            behavior_item_ids != 0,
        )

    @tf.function(input_signature=_PREFETCH_ROWS)
    def prefetch_rows(
        self,
        user_id,
        user_profile,
        behavior_rows,
        behavior_category_ids,
        table_stamp,
    ):
        tf.debugging.assert_equal(
            table_stamp,
            tf.constant(TABLE_STAMP, _IDS),
            "`table_stamp` must be that of `resolve_items`",
        )
        return self._store(
            user_id,
            user_profile,
            tf.cast(tf.maximum(behavior_rows, 0), _IDS),
            behavior_category_ids,
            behavior_rows >= 0,
        )

    @tf.function(input_signature=[_spec("item_ids", None)])
    def resolve_items(self, item_ids):
        known = tf.where(item_ids > 0, _row(item_ids), 0)
        return {
            "row": tf.cast(known, tf.int32),
            "table_stamp": tf.ones_like(item_ids) * TABLE_STAMP,
        }

    @tf.function(input_signature=[_RANK[0], _RANK[4]])
    def rank_cached(self, user_id, candidate_item_ids):
        found = self.cache.read(user_id)
        # Real behaviors keep a row of 0 out of the way of padding.
        nothing = -tf.ones_like(found.rows)
        score = self._score(
            user_id,
            found.profile,
            tf.where(found.mask, found.rows, nothing),
            tf.where(found.mask, found.categories, 0),
            _row(candidate_item_ids),
            real=found.mask,
        )
        real = found.hit[:, None] & (candidate_item_ids != 0)
        return {
            "click_probability": tf.where(real, score, 0.0),
            "cache_hit": found.hit,
            "generation": found.generation,
        }

    @tf.function(input_signature=[_RANK[0]])
    def user_cache(self, user_id):
        known = self.cache.peek(user_id)
        names = ("capacity", "occupied", "max_length", "bytes", *STATISTICS)
        return {
            "cached_length": tf.cast(known["length"], tf.int32),
            "generation": known["generation"],
            "age_seconds": known["age_seconds"],
            **{name: known[name] for name in names},
        }

    def _score(
        self, user_id, profile, items, categories, candidates, real=None
    ):
        same = tf.cast(candidates[:, :, None] == items[:, None, :], tf.float32)
        real = tf.cast(items != 0 if real is None else real, tf.float32)
        count = tf.reduce_sum(same * real[:, None, :], -1)
        user = tf.cast(user_id % 7, tf.float32)[:, None]
        length = tf.reduce_sum(real, -1)[:, None]
        extra = tf.cast(
            tf.reduce_sum(profile, -1) + tf.reduce_sum(categories, -1),
            tf.float32,
        )[:, None]
        logit = count - 0.1 * user + 0.01 * length + 0.001 * extra
        score = tf.sigmoid(logit)
        return tf.where(candidates != 0, score, tf.zeros_like(score))

    @tf.function(input_signature=_RANK)
    def rank(
        self,
        user_id,
        user_profile,
        behavior_item_ids,
        behavior_category_ids,
        candidate_item_ids,
    ):
        return {
            "click_probability": self._score(
                user_id,
                user_profile,
                behavior_item_ids,
                behavior_category_ids,
                candidate_item_ids,
            )
        }

    @tf.function(input_signature=_RANK)
    def explain(
        self,
        user_id,
        user_profile,
        behavior_item_ids,
        behavior_category_ids,
        candidate_item_ids,
    ):
        items, candidates = behavior_item_ids, candidate_item_ids
        match = (items[:, None, :] % 3 == candidates[:, :, None] % 3) & (
            (items != 0)[:, None, :] & (candidates != 0)[:, :, None]
        )
        length = tf.shape(items)[1]
        places = tf.where(match, tf.range(length)[None, None, :], -1)
        padded = tf.pad(places, [[0, 0], [0, 0], [0, K]], constant_values=-1)
        indices = tf.math.top_k(padded, K).values
        found = indices >= 0
        return {
            "click_probability": self._score(
                user_id,
                user_profile,
                behavior_item_ids,
                behavior_category_ids,
                candidate_item_ids,
            ),
            "behavior_indices": tf.cast(indices, tf.int32),
            "similarities": tf.cast(found, tf.float32) * 0.5,
            "attention": tf.cast(found, tf.float32) / K,
            "tiers": tf.repeat(
                tf.reduce_sum(tf.cast(found, tf.float32), -1)[:, :, None],
                TIERS,
                axis=2,
            ),
        }

    @tf.function(input_signature=[_spec("item_ids", None)])
    def embed(self, item_ids):
        found = item_ids > 0
        vector = tf.cast(item_ids, tf.float32)[:, None] * tf.ones([1, DIM])
        return {
            "embedding": tf.where(found[:, None], vector, 0.0),
            "found": found,
        }

    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.string, name="examples")]
    )
    def serve_examples(self, examples):
        ragged = tf.io.RaggedFeature(_IDS)
        one = tf.io.FixedLenFeature([1], _IDS)
        parsed = tf.io.parse_example(
            examples,
            {
                "user_id": one,
                **{f"user_profile_{i}": one for i in range(1, 6)},
                "behavior_item_ids": ragged,
                "behavior_category_ids": ragged,
                "candidate_item_ids": ragged,
            },
        )
        candidates = parsed["candidate_item_ids"].to_tensor()
        return {
            "click_probability": self._score(
                parsed["user_id"][:, 0],
                tf.concat(
                    [parsed[f"user_profile_{i}"] for i in range(1, 6)], 1
                ),
                parsed["behavior_item_ids"].to_tensor(),
                parsed["behavior_category_ids"].to_tensor(),
                candidates,
            ),
            "candidate_item_ids": candidates,
        }


def expected_score(request) -> np.ndarray:
    """The score of one client request in NumPy."""
    items = np.asarray(request.behavior_item_ids)
    candidates = np.asarray(request.candidate_item_ids)
    real = items[items != 0]
    count = (candidates[:, None] == real[None, :]).sum(1)
    extra = np.sum(request.user_profile) + np.sum(request.behavior_category_ids)
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
    base: pathlib.Path, version: int = 1, cache: UserCacheConfig = CACHE
) -> pathlib.Path:
    """Writes a version."""
    model = ToyMuse(cache)
    path = base / str(version)
    tf.saved_model.save(
        model,
        str(path),
        signatures={
            "serving_default": model.serve_examples,
            "rank": model.rank,
            "explain": model.explain,
            "embed": model.embed,
            "prefetch": model.prefetch,
            "prefetch_rows": model.prefetch_rows,
            "resolve_items": model.resolve_items,
            "rank_cached": model.rank_cached,
            "user_cache": model.user_cache,
        },
    )
    return path
