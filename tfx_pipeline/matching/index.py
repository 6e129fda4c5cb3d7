"""The served retrieval model: a TensorFlow Recommenders index with signatures.

It needs a process with ``TF_USE_LEGACY_KERAS=1``; see `process`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_recommenders as tfrs

from muse_keras.tables import ItemTable
from muse_keras.tables.array_blocks import blocks, release_pages
from muse_keras.tensorflow import newest_mask
from tfx_pipeline.matching.settings import Scoring

_IDS = tf.TensorSpec([None, None], tf.int64, name="behavior_item_ids")
_VECTOR = tf.TensorSpec([None, None], tf.float32, name="query_vector")
_POPULAR_PER_K = 8
_PROBES = 32

Block: TypeAlias = slice | npt.NDArray[np.integer[Any]]


class Items:
    """The items of a table that have a vector.

    Attributes:
        table: the item table.
        rows: int64 (N,), their rows in it.
        item_ids: int64 (N,), sorted.
        inverse_norms: float32 (N,), 1 / norm of their codes.
    """

    def __init__(self, table: ItemTable) -> None:
        inverse_norms = table.inverse_norms()
        self.table = table
        self.rows = np.flatnonzero(inverse_norms)
        self.item_ids = np.asarray(table.item_ids[self.rows - 1])
        self.inverse_norms = inverse_norms[self.rows]

    def codes(self, block: Block) -> npt.NDArray[np.int8]:
        """Returns the codes (n, D) of some items, by position."""
        codes = self.table.codes[self.rows[block]]
        release_pages(self.table.codes)
        return codes

    def vectors(self, block: Block) -> npt.NDArray[np.float32]:
        """Returns the unit vectors (n, D) of some items, by position."""
        return self.codes(block) * self.inverse_norms[block, np.newaxis]


def _frozen(values: npt.ArrayLike, name: str) -> tf.Variable:
    return tf.Variable(values, trainable=False, name=name)


class Exact(tf.Module):
    """Compares a query with all items, by `BruteForce` over float32 vectors.

    Popularity is one more dimension of the vectors.

    Args:
        items: the items of the index.
        popularity: float32 (N,), in [0, 1].
        k: number of items that a search returns, at most N.
    """

    def __init__(
        self, items: Items, popularity: npt.NDArray[np.float32], k: int
    ) -> None:
        super().__init__(name="exact")
        self.k = k
        self._dim = items.table.dim
        self._index = tfrs.layers.factorized_top_k.BruteForce(k=k)
        self._index.index(
            np.append(
                items.vectors(slice(None)), popularity[:, np.newaxis], axis=1
            )
        )
        # Use the index's vectors, because a copy would double the memory.
        self._candidates = next(
            weight
            for weight in self._index.weights
            if weight.name.startswith("candidates")
        )

    def assign_popularity(self, popularity: npt.NDArray[np.float32]) -> None:
        """Sets the popularity of the items, float32 (N,)."""
        self._candidates[:, self._dim].assign(popularity)

    def vectors(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns vector and popularity (..., D + 1) of rows (...)."""
        return tf.gather(self._candidates, rows)

    def search(self, queries: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns scores and rows (B, k) of queries (B, D + 1), best first."""
        return self._index(queries)


class Clustered(tf.Module):
    """Compares a query with the items of the clusters that are nearest to it.

    The most popular items are a cluster of their own, which every query is
    compared with, because a score is high by either term. Items are int8
    codes, D + 12 bytes for each. All ops are TensorFlow's own, so that any
    server can run them.

    Args:
        items: the items of the index.
        popularity: float32 (N,), in [0, 1].
        k: number of items that a search returns, at most N.
        clusters: int32 (N,), the cluster of each item.
        centroids: float32 (C, D).
    """

    def __init__(
        self,
        items: Items,
        popularity: npt.NDArray[np.float32],
        k: int,
        clusters: npt.NDArray[np.int32],
        centroids: npt.NDArray[np.float32],
    ) -> None:
        super().__init__(name="clustered")
        self.k = k
        self.num_clusters = len(centroids)
        popular = min(len(clusters), _POPULAR_PER_K * k)
        clusters = clusters.copy()
        clusters[np.argpartition(-popularity, popular - 1)[:popular]] = (
            self.num_clusters
        )
        members = np.argsort(clusters, kind="stable").astype(np.int32)
        splits = np.searchsorted(
            clusters[members], np.arange(self.num_clusters + 2)
        )
        self._codes = tf.Variable(
            tf.zeros([len(members), items.table.dim], tf.int8),
            trainable=False,
            name="codes",
        )
        for block in blocks(len(members)):
            self._codes.scatter_update(
                tf.IndexedSlices(
                    items.codes(block), tf.range(block.start, block.stop)
                )
            )
        self._inverse_norms = _frozen(items.inverse_norms, "inverse_norms")
        self._popularity = _frozen(popularity, "popularity")
        self._centroids = _frozen(centroids, "centroids")
        self._members = _frozen(members, "members")
        self._splits = _frozen(splits.astype(np.int32), "splits")
        self._probes = _frozen(np.int32(min(_PROBES, len(centroids))), "probes")

    def assign_popularity(self, popularity: npt.NDArray[np.float32]) -> None:
        """Sets the popularity of the items, float32 (N,)."""
        self._popularity.assign(popularity)

    def assign_probes(self, probes: int) -> None:
        """Sets the number of clusters that are searched."""
        self._probes.assign(probes)

    def vectors(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns vector and popularity (..., D + 1) of rows (...)."""
        codes = tf.cast(tf.gather(self._codes, rows), tf.float32)
        norms = tf.gather(self._inverse_norms, rows)[..., tf.newaxis]
        popularity = tf.gather(self._popularity, rows)[..., tf.newaxis]
        return tf.concat([codes * norms, popularity], axis=-1)

    def search(self, queries: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns scores and rows (B, k) of queries (B, D + 1), best first."""
        similar = tf.matmul(queries[:, :-1], self._centroids, transpose_b=True)
        _, probed = tf.math.top_k(similar, k=self._probes, sorted=False)
        # The cluster after the last one has the popular items.
        probed = tf.pad(
            probed, [[0, 0], [0, 1]], constant_values=self.num_clusters
        )
        return tf.map_fn(
            self._search_clusters,
            (queries, probed),
            fn_output_signature=(
                tf.TensorSpec([self.k], tf.float32),
                tf.TensorSpec([self.k], tf.int32),
            ),
        )

    def _search_clusters(
        self, query_and_clusters: tuple[tf.Tensor, tf.Tensor]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        query, probed = query_and_clusters
        places = tf.ragged.range(
            tf.gather(self._splits, probed), tf.gather(self._splits, probed + 1)
        )
        rows = tf.gather(self._members, places.flat_values)
        codes = tf.cast(tf.gather(self._codes, rows), tf.float32)
        scores = tf.linalg.matvec(codes, query[:-1])
        scores *= tf.gather(self._inverse_norms, rows)
        scores += query[-1] * tf.gather(self._popularity, rows)
        best, place = tf.math.top_k(scores, k=self.k)
        return best, tf.gather(rows, place)


class Matcher(tf.Module):
    """Finds the items with the highest `Scoring` for a user.

    Popularity is an additional dimension of the item vectors, so that the index
    searches by vector and popularity at once. Only items of the history have a
    score for repetition; they are scored separately and merged into the answer,
    which is exact if the index is.

    Args:
        items: the items of the index.
        index: `Exact` or `Clustered`; k is the number of items in an answer.
        max_behaviors: number of newest behaviors that are used, M.
        scoring: weights; `assign` changes them.
    """

    def __init__(
        self,
        items: Items,
        index: Exact | Clustered,
        *,
        max_behaviors: int,
        scoring: Scoring,
    ) -> None:
        super().__init__(name="matcher")
        self.num_items = len(items.item_ids)
        self.dim = items.table.dim
        self.num_candidates = index.k
        self._max_behaviors = max_behaviors
        self._item_ids = _frozen(items.item_ids, "item_ids")
        self.index = index
        self._weights = {
            name: tf.Variable(value, trainable=False, dtype=tf.float32)
            for name, value in dataclasses.asdict(scoring).items()
        }

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
        scores, candidates = self.index.search(queries)

        # Each distinct item of the history with its number of occurrences.
        absent = tf.constant(self.num_items, tf.int32)
        history = tf.sort(tf.where(found, rows, absent), axis=1)
        first = tf.searchsorted(history, history, side="left")
        count = tf.searchsorted(history, history, side="right") - first
        place = tf.range(tf.shape(history)[1])[tf.newaxis]
        counts = (history < absent) & (first == place)
        known = tf.minimum(history, absent - 1)
        gained = tf.linalg.matvec(self.index.vectors(known), queries)
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
        scores, candidates = self.index.search(
            tf.ensure_shape(queries, [None, self.dim + 1])
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
        vectors = self.index.vectors(rows)[..., : self.dim]
        mean = tf.linalg.matvec(vectors, weights, transpose_a=True)
        user = self._weights["vector_weight"] * tf.math.l2_normalize(
            mean, axis=1
        )
        popularity = tf.fill(
            [tf.shape(user)[0], 1], self._weights["popularity_weight"]
        )
        return tf.concat([user, popularity], axis=1)
