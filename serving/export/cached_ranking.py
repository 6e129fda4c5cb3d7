"""The signatures that rank with a history which the device already holds.

`prefetch` resolves a history and stores it; `rank_cached` ranks with it.
`prefetch_rows` stores one that was resolved before, by `resolve_items`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from muse_keras.tables import ItemTable
from muse_keras.tensorflow import FeatureNames, newest_mask
from serving.export.request import (
    EMBED_INPUTS,
    RANK_CACHED_INPUTS,
    USER_CACHE_INPUTS,
    checked_item_ids,
    checked_request,
    prefetch_inputs,
    prefetch_rows_inputs,
    require,
)
from serving.export.saving import Untracked
from serving.export.user_cache import (
    STATISTICS,
    Histories,
    UserCache,
    UserCacheConfig,
)
from serving.export.words import WordFormat

if TYPE_CHECKING:  # The key of the retrieval model knows no ranker.
    from muse_keras.models import BaseRanker

Tensors = dict[str, tf.Tensor]


class CachedRanking(tf.Module):
    """The user cache and what it stores of a request."""

    def __init__(
        self,
        config: UserCacheConfig,
        model: "BaseRanker",
        names: FeatureNames,
        item_table: ItemTable,
        max_history: int | None,
        indices: Callable[
            [Tensors, tf.Tensor], tuple[tf.Tensor, list[tf.Tensor]]
        ],
        score: Callable[[tf.Tensor, Histories], tf.Tensor],
    ) -> None:
        super().__init__(name="cached_ranking")
        last_row = model.table.num_items + model.table.spare_rows
        self.cache = UserCache(
            config,
            WordFormat(
                row_bits=last_row.bit_length(),
                feature_bits={
                    name: (model.item_sizes[name] - 1).bit_length()
                    for name in model.behavior_features
                },
            ),
            len(model.user_sizes),
        )
        self.table_stamp = stamp_of(item_table)
        self._table = Untracked(model.table)
        self._prefetch_inputs = Untracked(prefetch_inputs(names))
        self._prefetch_rows_inputs = Untracked(prefetch_rows_inputs(names))
        self._indices = Untracked(indices)
        self._score = Untracked(score)
        self._limit = min(config.max_length, max_history or config.max_length)

    def functions(
        self,
    ) -> dict[str, tuple[Any, dict[str, tf.TensorSpec]]]:
        """Return what to trace, and its inputs, by signature name."""
        return {
            "prefetch": (self.prefetch, self._prefetch_inputs.object),
            "prefetch_rows": (
                self.prefetch_rows,
                self._prefetch_rows_inputs.object,
            ),
            "resolve_items": (self.resolve_items, EMBED_INPUTS),
            "rank_cached": (self.rank_cached, RANK_CACHED_INPUTS),
            "user_cache": (self.user_cache, USER_CACHE_INPUTS),
        }

    def prefetch(self, **inputs: tf.Tensor) -> Tensors:
        """Store histories of raw ids.

        Returns `cached_length` int32 (B,) and `generation` int64 (B,), both 0
        where another writer took the slot.
        """
        inputs = checked_request(inputs, self._prefetch_inputs.object)
        ids = inputs["behavior_item_ids"]
        rows = self._table.object.lookup(ids)
        return self._store(inputs, rows, newest_mask(ids, self._limit))

    def prefetch_rows(self, **inputs: tf.Tensor) -> Tensors:
        """Store histories of table rows; -1 is padding, 0 an unknown item."""
        # int64 at once: TensorFlow keeps int32 on the host.
        rows = tf.cast(inputs["behavior_rows"], tf.int64)
        inputs = checked_request(
            {**inputs, "behavior_rows": rows}, self._prefetch_rows_inputs.object
        )
        rows = inputs["behavior_rows"]
        stamp = tf.constant(self.table_stamp, tf.int64)
        wrong = tf.where(tf.not_equal(inputs["table_stamp"], stamp))
        # Only the size of `wrong` is looked at, which is on the host.
        with tf.control_dependencies(
            [
                require(
                    tf.equal(tf.shape(wrong)[0], 0),
                    "`table_stamp` must be that of `resolve_items`: these "
                    "rows belong to another item table. Send item ids to "
                    "`prefetch` instead. Number of such requests:",
                    tf.shape(wrong)[0],
                )
            ]
        ):
            # Empty from here on; a result depends on it.
            rows = rows + tf.reduce_sum(wrong)
        known = self._table.object.num_items
        in_table = (rows >= 0) & (rows <= known)
        return self._store(
            inputs,
            tf.where(in_table, rows, tf.zeros_like(rows)),
            newest_mask(rows + 1, self._limit),
        )

    def resolve_items(self, item_ids: tf.Tensor) -> Tensors:
        """Return `row` int32 (N,), 0 = unknown, and `table_stamp` (N,)."""
        ids = checked_item_ids(item_ids)
        return {
            "row": self._table.object.lookup_known(ids),
            "table_stamp": tf.ones_like(ids) * self.table_stamp,
        }

    def rank_cached(self, **inputs: tf.Tensor) -> Tensors:
        """Rank with the stored history.

        `click_probability` float32 (B, C), `cache_hit` bool (B,) and
        `generation` int64 (B,); 0 for a miss.
        """
        inputs = checked_request(inputs, RANK_CACHED_INPUTS)
        found = self.cache.read(inputs["user_id"])
        scores = self._score.object(inputs["candidate_item_ids"], found)
        return {
            "click_probability": tf.where(
                found.hit[:, tf.newaxis], scores, tf.zeros_like(scores)
            ),
            "cache_hit": found.hit,
            "generation": found.generation,
        }

    def user_cache(self, user_id: tf.Tensor) -> Tensors:
        """Return what the cache holds of users, and its statistics."""
        users = tf.ensure_shape(user_id, [None])
        known = self.cache.peek(users)
        names = ("capacity", "occupied", "max_length", "bytes", *STATISTICS)
        return {
            "cached_length": tf.cast(known["length"], tf.int32),
            "generation": known["generation"],
            "age_seconds": known["age_seconds"],
            **{name: known[name] for name in names},
        }

    def _store(
        self, inputs: Tensors, rows: tf.Tensor, mask: tf.Tensor
    ) -> Tensors:
        rows = tf.cast(rows, tf.int64)
        user, behaviors = self._indices.object(inputs, rows)
        lengths, generations = self.cache.write(
            inputs["user_id"], user, rows, behaviors, mask
        )
        return {
            "cached_length": tf.cast(lengths, tf.int32),
            "generation": generations,
        }


def stamp_of(item_table: ItemTable) -> int:
    """Return a positive int64 that identifies the table's ids and order."""
    digest = item_table.manifest["files"]["item_ids.npy"]["sha256"]
    return int(digest[:16], 16) >> 1 or 1
