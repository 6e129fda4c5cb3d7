"""Exact search and the recall of it by TensorFlow Recommenders.

It needs a process with ``TF_USE_LEGACY_KERAS=1``; see `process`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_recommenders as tfrs

from muse_keras.tables.array_blocks import blocks
from tfx_pipeline.matching.index import Items

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


def exact_index(
    items: Items, k: int, popularity: npt.NDArray[np.float32] | None = None
) -> tfrs.layers.factorized_top_k.Streaming:
    """Returns an index that compares all items, block by block.

    Its identifiers are positions int64 among ``items``. Queries are float32
    (B, D), or (B, D + 1) with ``popularity`` float32 (N,).
    """

    def read() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for block in blocks(len(items.item_ids), _BLOCK_ITEMS):
            vectors = items.vectors(block)
            if popularity is not None:
                vectors = np.append(vectors, popularity[block, None], axis=1)
            yield np.arange(block.start, block.stop, dtype=np.int64), vectors

    width = items.table.dim + (popularity is not None)
    index = tfrs.layers.factorized_top_k.Streaming(k=k)
    index.index_from_dataset(
        tf.data.Dataset.from_generator(
            read,
            output_signature=(
                tf.TensorSpec([None], tf.int64),
                tf.TensorSpec([None, width], tf.float32),
            ),
        )
    )
    return index


def factorized_recall(
    index: tfrs.layers.factorized_top_k.TopK,
    queries: npt.NDArray[np.float32],
    users: npt.NDArray[np.int64],
    clicked: npt.NDArray[np.int64],
    ks: Sequence[int],
) -> dict[str, float]:
    """Returns how often the clicked item is among the best k, by k.

    Args:
        index: of `exact_index`.
        queries: float32 (U, D).
        users: int64 (n,), ascending; row of ``queries`` of each click.
        clicked: int64 (n,), identifiers of the clicked items. Unknown ones,
            such as -1, are never found.
        ks: numbers of items, each at most N.
    """
    if not len(clicked):
        return {str(k): float("nan") for k in ks}
    metric = tfrs.metrics.FactorizedTopK(
        candidates=_EqualQueriesOnce(index, max(ks)), ks=list(ks)
    )

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, queries.shape[1]], tf.float32),
            tf.TensorSpec([None], tf.int64),
        ]
    )
    def update(chosen: tf.Tensor, rows: tf.Tensor) -> None:
        metric.update_state(
            query_embeddings=chosen,
            # Only recall by score would use these embeddings.
            true_candidate_embeddings=tf.zeros_like(chosen),
            true_candidate_ids=rows,
        )

    bounds = np.searchsorted(users, range(0, len(queries), _BATCH_USERS))
    for start, end in zip(bounds, [*bounds[1:], len(users)], strict=True):
        if start < end:
            update(queries[users[start:end]], clicked[start:end])
    return {
        str(k): float(value)
        for k, value in zip(ks, metric.result(), strict=True)
    }
