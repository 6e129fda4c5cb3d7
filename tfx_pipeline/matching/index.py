"""The served retrieval model: a TensorFlow Recommenders index with signatures.

It needs a process with ``TF_USE_LEGACY_KERAS=1``; see `process`.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_recommenders as tfrs

from muse_keras.tensorflow import newest_mask
from tfx_pipeline.matching.settings import Scoring

_IDS = tf.TensorSpec([None, None], tf.int64, name="behavior_item_ids")
_VECTOR = tf.TensorSpec([None, None], tf.float32, name="query_vector")


class Matcher(tf.Module):
    """Finds the items with the highest `Scoring` for a user.

    Popularity is an additional dimension of the item vectors, so that the index
    searches by vector and popularity at once. Only items of the history have a
    score for repetition; they are scored separately and merged into the answer,
    which is therefore exact.

    Args:
        item_ids: int64 (N,), sorted, unique.
        vectors: float32 (N, D), unit vectors.
        popularity: float32 (N,), in [0, 1].
        num_candidates: number of items in an answer, K; N if that is smaller.
        max_behaviors: number of newest behaviors that are used, M.
        scoring: weights; `assign` changes them.

    Raises:
        ValueError: there are no items, or lengths differ.
    """

    def __init__(
        self,
        item_ids: npt.NDArray[np.int64],
        vectors: npt.NDArray[np.float32],
        popularity: npt.NDArray[np.float32],
        *,
        num_candidates: int,
        max_behaviors: int,
        scoring: Scoring,
    ) -> None:
        super().__init__(name="matcher")
        size = len(item_ids)
        if not size or len(vectors) != size or len(popularity) != size:
            raise ValueError(
                "`item_ids`, `vectors` and `popularity` must have the same "
                f"length, at least 1. Received: {size}, {len(vectors)} and "
                f"{len(popularity)}"
            )
        self.num_items = size
        self.dim = vectors.shape[1]
        self.num_candidates = min(num_candidates, size)
        self._max_behaviors = max_behaviors
        self._item_ids = tf.Variable(
            item_ids, trainable=False, name="item_ids", dtype=tf.int64
        )
        self._index = tfrs.layers.factorized_top_k.BruteForce(
            k=self.num_candidates
        )
        self._index.index(
            tf.concat([vectors, popularity[:, np.newaxis]], axis=1)
        )
        # Use the index's vectors, because a copy would double the memory.
        self._candidates = next(
            weight
            for weight in self._index.weights
            if weight.name.startswith("candidates")
        )
        self._weights = {
            name: tf.Variable(value, trainable=False, dtype=tf.float32)
            for name, value in dataclasses.asdict(scoring).items()
        }

    def assign_popularity(self, popularity: npt.NDArray[np.float32]) -> None:
        """Sets the popularity of the items, float32 (N,)."""
        self._candidates[:, self.dim].assign(popularity)

    def assign(self, scoring: Scoring) -> None:
        """Sets the weights of the score."""
        for name, value in dataclasses.asdict(scoring).items():
            self._weights[name].assign(value)

    @tf.function(input_signature=[_IDS])
    def queries(self, behavior_item_ids: tf.Tensor) -> tf.Tensor:
        """Returns the queries of users for the index.

        They are float32 (B, D + 1): a unit vector, or zeros without any known
        behavior, and the weight of the popularity.
        """
        return self._queries(*self._history(behavior_item_ids))

    @tf.function(input_signature=[_IDS])
    def recommend(self, behavior_item_ids: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the best items for users, best first.

        ``behavior_item_ids`` int64 (B, L) are oldest first; 0 is padding, at
        any position. Unknown items are behaviors without a vector. Returns
        ``candidate_item_ids`` int64 (B, K) and ``scores`` float32 (B, K).
        """
        rows, found, age = self._history(behavior_item_ids)
        queries = self._queries(rows, found, age)
        scores, candidates = self._index(queries, k=self.num_candidates)

        # Each distinct item of the history with its number of occurrences.
        absent = tf.constant(self.num_items, tf.int32)
        history = tf.sort(tf.where(found, rows, absent), axis=1)
        first = tf.searchsorted(history, history, side="left")
        count = tf.searchsorted(history, history, side="right") - first
        place = tf.range(tf.shape(history)[1])[tf.newaxis]
        counts = (history < absent) & (first == place)
        known = tf.minimum(history, absent - 1)
        gained = tf.linalg.matvec(tf.gather(self._candidates, known), queries)
        gained += self._weights["repeat_weight"] * tf.math.log1p(
            tf.cast(count, tf.float32)
        )

        found_at = tf.minimum(
            tf.searchsorted(history, candidates), tf.shape(history)[1] - 1
        )
        repeated = tf.equal(
            tf.gather(history, found_at, batch_dims=1), candidates
        )
        lowest = tf.constant(-np.inf, tf.float32)
        merged, chosen = tf.math.top_k(
            tf.concat(
                [
                    tf.where(repeated, lowest, scores),
                    tf.where(counts, gained, lowest),
                ],
                axis=1,
            ),
            k=self.num_candidates,
        )
        items = tf.gather(
            tf.concat([candidates, known], axis=1), chosen, batch_dims=1
        )
        return {
            "candidate_item_ids": tf.gather(self._item_ids, items),
            "scores": merged,
        }

    @tf.function(input_signature=[_VECTOR])
    def search(self, query_vector: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the items most similar to vectors, most similar first.

        ``query_vector`` float32 (B, D) may have any length except 0; scores are
        cosines. Returns the same outputs as `recommend`.
        """
        norm = tf.norm(query_vector, axis=1, keepdims=True)
        with tf.control_dependencies(
            [
                tf.debugging.Assert(
                    tf.equal(tf.shape(query_vector)[1], self.dim),
                    [
                        f"query_vector must have {self.dim} columns. Received:",
                        tf.shape(query_vector)[1],
                    ],
                ),
                tf.debugging.Assert(
                    tf.reduce_all(tf.math.is_finite(norm) & (norm > 0)),
                    ["query_vector must be finite and not zero. Norms:", norm],
                ),
            ]
        ):
            unit = query_vector / norm
        queries = tf.concat([unit, tf.zeros_like(norm)], axis=1)
        scores, candidates = self._index(
            tf.ensure_shape(queries, [None, self.dim + 1]),
            k=self.num_candidates,
        )
        return {
            "candidate_item_ids": tf.gather(self._item_ids, candidates),
            "scores": scores,
        }

    def signatures(self) -> dict[str, tf.types.experimental.GenericFunction]:
        """Returns the functions to serve, by signature name."""
        return {
            "recommend": self.recommend,
            "search": self.search,
            "serving_default": self.recommend,
        }

    def _history(
        self, behavior_item_ids: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Resolves the newest behaviors.

        Returns:
            int32 rows of the index; bool, whether the item has a row; float32
            age, the number of newer behaviors. Each is (B, M'), M' >= 1.
        """
        mask = newest_mask(behavior_item_ids, self._max_behaviors)
        ragged = tf.ragged.boolean_mask(behavior_item_ids, mask)
        # Add a column, because the code below reads the last one.
        ids = tf.pad(ragged.to_tensor(), [[0, 0], [0, 1]])
        place = tf.searchsorted(self._item_ids, tf.reshape(ids, [-1]))
        rows = tf.reshape(tf.minimum(place, self.num_items - 1), tf.shape(ids))
        found = tf.equal(tf.gather(self._item_ids, rows), ids)
        lengths = tf.cast(ragged.row_lengths(), tf.int32)[:, tf.newaxis]
        age = lengths - 1 - tf.range(tf.shape(ids)[1])
        return rows, found & (age >= 0), tf.cast(age, tf.float32)

    def _queries(
        self, rows: tf.Tensor, found: tf.Tensor, age: tf.Tensor
    ) -> tf.Tensor:
        """Returns the queries float32 (B, D + 1) of results of `_history`."""
        recency = 0.5 ** (age / self._weights["half_life"])
        weights = tf.where(found, recency, 0.0)
        vectors = tf.gather(self._candidates, rows)[..., : self.dim]
        mean = tf.linalg.matvec(vectors, weights, transpose_a=True)
        user = self._weights["vector_weight"] * tf.math.l2_normalize(
            mean, axis=1
        )
        popularity = tf.fill(
            [tf.shape(user)[0], 1], self._weights["popularity_weight"]
        )
        return tf.concat([user, popularity], axis=1)
