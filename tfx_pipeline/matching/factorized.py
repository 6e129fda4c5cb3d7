"""Measures the recall of an index by TensorFlow Recommenders' own metric.

It needs a process with ``TF_USE_LEGACY_KERAS=1``; see `process`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_recommenders as tfrs

_BATCH_USERS = 256
_BLOCK_ITEMS = 8192


class _EqualQueriesOnce(tfrs.layers.factorized_top_k.TopK):
    """Searches each distinct query of a batch once.

    The metric searches once per click, but all clicks of a user have the same
    query.
    """

    def __init__(self, index: tfrs.layers.factorized_top_k.TopK, k: int):
        super().__init__(k=k)
        self._searched = index

    def index(self, candidates, identifiers=None):  # type: ignore[no-untyped-def]
        """Not supported: the index exists already."""
        raise NotImplementedError

    def call(
        self, queries: tf.Tensor, k: int | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns scores and ids (B, k) of queries (B, D)."""
        distinct, row = tf.raw_ops.UniqueV2(x=queries, axis=[0])
        scores, ids = self._searched(distinct, k=k)
        return tf.gather(scores, row), tf.gather(ids, row)

    def is_exact(self) -> bool:
        return self._searched.is_exact()


def factorized_recall(
    item_ids: npt.NDArray[np.int64],
    vectors: npt.NDArray[np.float32],
    queries: npt.NDArray[np.float32],
    users: npt.NDArray[np.int64],
    clicked: npt.NDArray[np.int64],
    ks: Sequence[int],
) -> dict[str, float]:
    """Returns how often the clicked item is among the best k, by k.

    Args:
        item_ids: int64 (N,).
        vectors: float32 (N, D).
        queries: float32 (U, D).
        users: int64 (n,), ascending; row of ``queries`` of each click.
        clicked: int64 (n,), the clicked items. Items that are not in
            ``item_ids`` are never found.
        ks: numbers of items, each at most N.
    """
    if not len(clicked):
        return {str(k): float("nan") for k in ks}
    top = max(ks)
    index = tfrs.layers.factorized_top_k.Streaming(k=top)
    index.index_from_dataset(_blocks(item_ids, vectors))
    metric = tfrs.metrics.FactorizedTopK(
        candidates=_EqualQueriesOnce(index, top), ks=list(ks)
    )

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, queries.shape[1]], tf.float32),
            tf.TensorSpec([None], tf.int64),
        ]
    )
    def update(chosen: tf.Tensor, item_ids: tf.Tensor) -> None:
        metric.update_state(
            query_embeddings=chosen,
            # Only recall by score would use these embeddings.
            true_candidate_embeddings=tf.zeros_like(chosen),
            true_candidate_ids=item_ids,
        )

    bounds = np.searchsorted(users, range(0, len(queries), _BATCH_USERS))
    for start, end in zip(bounds, [*bounds[1:], len(users)], strict=True):
        if start < end:
            update(queries[users[start:end]], clicked[start:end])
    return {
        str(k): float(value)
        for k, value in zip(ks, metric.result(), strict=True)
    }


def _blocks(
    item_ids: npt.NDArray[np.int64], vectors: npt.NDArray[np.float32]
) -> tf.data.Dataset:
    """Returns a dataset of ids and vectors in blocks of items."""
    ids, rows = tf.constant(item_ids), tf.constant(vectors)

    def block(start: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        end = start + _BLOCK_ITEMS
        return ids[start:end], rows[start:end]

    return tf.data.Dataset.range(0, len(item_ids), _BLOCK_ITEMS).map(block)
