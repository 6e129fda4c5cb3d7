"""A model with the retrieval model's signatures and simpler formulas.

`recommend` scores the items 1 to 9: how often the history has it, and a
hundredth of its number. `search` scores item i + 1 by element i of the query.
"""

from __future__ import annotations

import pathlib

import numpy as np
import tensorflow as tf

ITEMS, K = 9, 5


class ToyMatching(tf.Module):
    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None], tf.int64, name="behavior_item_ids")
        ]
    )
    def recommend(self, behavior_item_ids):
        items = tf.range(1, ITEMS + 1, dtype=tf.int64)
        same = tf.equal(behavior_item_ids[:, :, tf.newaxis], items)
        count = tf.reduce_sum(tf.cast(same, tf.float32), axis=1)
        return self._best(count + tf.cast(items, tf.float32) / 100)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None], tf.float32, name="query_vector")
        ]
    )
    def search(self, query_vector):
        return self._best(query_vector)

    def _best(self, scores):
        values, indices = tf.math.top_k(scores, k=K)
        items = tf.cast(indices, tf.int64) + 1
        return {"candidate_item_ids": items, "scores": values}


def export_toy_matching(base: pathlib.Path) -> None:
    """Writes version 1."""
    model = ToyMatching()
    tf.saved_model.save(
        model,
        str(base / "1"),
        signatures={
            "recommend": model.recommend,
            "search": model.search,
            "serving_default": model.recommend,
        },
    )


def expected(history) -> tuple[list[int], list[float]]:
    """Items and scores that `recommend` answers."""
    items = np.arange(1, ITEMS + 1)
    counts = np.array([list(history).count(item) for item in items])
    scores = counts + items / 100
    order = np.argsort(-scores)[:K]
    return items[order].tolist(), scores[order].tolist()
