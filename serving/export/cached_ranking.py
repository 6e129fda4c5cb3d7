"""Signatures that rank with histories cached on the device.

`prefetch` resolves a history and stores it; `rank_cached` ranks with it.
`prefetch_rows` stores a history whose rows `resolve_items` returned before.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from muse_keras.tables import ItemTable
from muse_keras.tensorflow import newest_mask
from schemas.columns import Features
from serving.export.feature_names import tensor_names
from serving.export.request import (
    EMBED_INPUTS,
    USER_CACHE_INPUTS,
    Specs,
    checked_item_ids,
    checked_request,
    prefetch_inputs,
    prefetch_rows_inputs,
    rank_cached_inputs,
    require,
)
from serving.export.saving import Untracked
from serving.export.user_cache import (
    STATISTICS,
    Histories,
    UserCache,
    UserCacheConfig,
)
from serving.export.words import WordFormat, pack_numbers, unpack_numbers

if TYPE_CHECKING:  # The retrieval model's export must not import the rankers.
    from muse_keras.models import BaseRanker

Tensors = dict[str, tf.Tensor]


class CachedRanking(tf.Module):
    """The user cache and the signatures that use it."""

    def __init__(
        self,
        config: UserCacheConfig,
        model: "BaseRanker",
        features: Features,
        behavior_sizes: Mapping[str, int],
        item_table: ItemTable,
        max_history: int | None,
        resolve: Callable[[Tensors, tf.Tensor, tf.Tensor], Histories],
        score: Callable[[Tensors, Histories], Tensors],
    ) -> None:
        super().__init__(name="cached_ranking")
        last_row = model.table.num_items + model.table.spare_rows
        columns = sum(tensor_names(features).user.values())
        self._numbers = model.user_numbers
        self.cache = UserCache(
            config,
            WordFormat(
                row_bits=last_row.bit_length(),
                feature_bits={
                    name: (size - 1).bit_length()
                    for name, size in behavior_sizes.items()
                },
            ),
            columns + self._numbers,
        )
        self.table_stamp = stamp_of(item_table)
        self._table = Untracked(model.table)
        self._prefetch_inputs = Untracked(prefetch_inputs(features))
        self._prefetch_rows_inputs = Untracked(prefetch_rows_inputs(features))
        self._rank_cached_inputs = Untracked(rank_cached_inputs(features))
        self._resolve = Untracked(resolve)
        self._score = Untracked(score)
        self._limit = min(config.max_length, max_history or config.max_length)

    def functions(
        self,
    ) -> dict[str, tuple[Any, Specs]]:
        """Return the functions to trace and their inputs, by signature."""
        return {
            "prefetch": (self.prefetch, self._prefetch_inputs.object),
            "prefetch_rows": (
                self.prefetch_rows,
                self._prefetch_rows_inputs.object,
            ),
            "resolve_items": (self.resolve_items, EMBED_INPUTS),
            "rank_cached": (
                self.rank_cached,
                self._rank_cached_inputs.object,
            ),
            "user_cache": (self.user_cache, USER_CACHE_INPUTS),
        }

    def prefetch(self, **inputs: tf.Tensor) -> Tensors:
        """Store histories of raw ids.

        Returns `cached_length` int32 (B,) and `generation` int64 (B,), both 0
        if another writer took the slot.
        """
        inputs = checked_request(inputs, self._prefetch_inputs.object)
        ids = inputs["behavior_item_ids"]
        rows = self._table.object.lookup(ids)
        return self._store(inputs, rows, newest_mask(ids, self._limit))

    def prefetch_rows(self, **inputs: tf.Tensor) -> Tensors:
        """Store histories of table rows; -1 is padding, 0 an unknown item."""
        # Cast to int64 at once: TensorFlow keeps int32 on the host.
        rows = tf.cast(inputs["behavior_rows"], tf.int64)
        inputs = checked_request(
            {**inputs, "behavior_rows": rows}, self._prefetch_rows_inputs.object
        )
        rows = inputs["behavior_rows"]
        stamp = tf.constant(self.table_stamp, tf.int64)
        wrong = tf.where(tf.not_equal(inputs["table_stamp"], stamp))
        # The check only reads the size of `wrong`, which is on the host.
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
            # `wrong` is empty here; the sum makes a result depend on it.
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
        """Rank with the cached histories.

        Returns the probabilities of `rank`, `cache_hit` bool (B,) and
        `generation` int64 (B,). All are 0 for a miss.
        """
        inputs = checked_request(inputs, self._rank_cached_inputs.object)
        found = self.cache.read(inputs["user_id"])
        if self._numbers:
            found = found._replace(
                user=found.user[:, : -self._numbers],
                user_numbers=unpack_numbers(found.user[:, -self._numbers :]),
            )
        hit = found.hit[:, tf.newaxis]
        return {
            **{
                name: tf.where(hit, scores, tf.zeros_like(scores))
                for name, scores in self._score.object(inputs, found).items()
            },
            "cache_hit": found.hit,
            "generation": found.generation,
        }

    def user_cache(self, user_id: tf.Tensor) -> Tensors:
        """Return the state of users in the cache, and its statistics."""
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
        found = self._resolve.object(inputs, tf.cast(rows, tf.int64), mask)
        user = found.user
        if self._numbers:
            user = tf.concat([user, pack_numbers(found.user_numbers)], axis=1)
        lengths, generations = self.cache.write(
            inputs["user_id"], user, found.rows, found.behaviors, mask
        )
        return {
            "cached_length": tf.cast(lengths, tf.int32),
            "generation": generations,
        }


def stamp_of(item_table: ItemTable) -> int:
    """Return a positive int64 that identifies the table's ids and order."""
    digest = item_table.manifest["files"]["item_ids.npy"]["sha256"]
    return int(digest[:16], 16) >> 1 or 1
