"""How much of what the ranker sees has an item vector."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from muse_keras.tables import ItemTable
from tfx_pipeline import features
from tfx_pipeline.training import records

_LISTS = {
    "candidates": features.CANDIDATE_ITEM_IDS,
    "behaviors": features.BEHAVIOR_ITEM_IDS,
}
_BATCH = 256


def coverage(
    files: Sequence[pathlib.Path], table: ItemTable
) -> dict[str, dict[str, int]]:
    """Counts candidates and behaviors whose item has a vector.

    An item counts as often as it occurs, padding does not.
    """
    spec = {name: tf.io.RaggedFeature(tf.int64) for name in _LISTS.values()}
    has_vector = table.inverse_norms() > 0
    counts = {kind: {"total": 0, "with_vector": 0} for kind in _LISTS}
    requests = records.record_dataset([str(path) for path in files])
    for batch in requests.batch(_BATCH):
        parsed = tf.io.parse_example(batch, spec)
        for kind, name in _LISTS.items():
            ids = parsed[name].flat_values.numpy()
            ids = ids[ids != 0]
            counts[kind]["total"] += len(ids)
            found = np.count_nonzero(has_vector[table.rows(ids)])
            counts[kind]["with_vector"] += int(found)
    return counts
