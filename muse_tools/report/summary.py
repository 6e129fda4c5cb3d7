"""Summarizes the data in a few numbers."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tensorflow_metadata.proto.v0 import statistics_pb2

from muse_keras.tables import ItemTable
from tfx_pipeline import features
from tfx_pipeline.training import records

_FILE = "FeatureStats.pb"
_LISTS = {
    "candidates": features.CANDIDATE_ITEM_IDS,
    "behaviors": features.BEHAVIOR_ITEM_IDS,
}
_BATCH = 256


def of_statistics(folder: pathlib.Path) -> dict[str, dict[str, float]]:
    """Returns counts and means of each split, from StatisticsGen's output."""
    return {
        path.parent.name.removeprefix("Split-"): _split(path)
        for path in sorted(folder.glob(f"Split-*/{_FILE}"), reverse=True)
    }


def _split(path: pathlib.Path) -> dict[str, float]:
    statistics = statistics_pb2.DatasetFeatureStatisticsList.FromString(
        path.read_bytes()
    )
    # The first data set is the whole split; others are slices.
    whole = statistics.datasets[0]
    by_name = {
        "".join(feature.path.step) or feature.name: feature.num_stats
        for feature in whole.features
    }
    clicks = by_name[features.CLICKS]
    history = by_name[features.BEHAVIOR_ITEM_IDS].common_stats
    lengths = history.num_values_histogram.buckets
    total = max(1, whole.num_examples)
    # Requests without behaviors have no value in the statistics.
    missing = total - history.num_non_missing
    return {
        "requests": whole.num_examples,
        "impressions": clicks.common_stats.tot_num_values,
        "click_rate": clicks.mean,
        "mean_history": history.tot_num_values / total,
        "median_history": _median(lengths, missing),
        "longest_history": history.max_num_values,
    }


def _median(
    buckets: list[statistics_pb2.Histogram.Bucket], missing: float
) -> float:
    """Returns the median of a quantile histogram and `missing` zeros."""
    half = (missing + sum(bucket.sample_count for bucket in buckets)) / 2
    if half <= missing:
        return 0.0
    seen = missing
    for bucket in buckets:
        if seen + bucket.sample_count >= half:
            share = (half - seen) / bucket.sample_count
            width = bucket.high_value - bucket.low_value
            return bucket.low_value + share * width
        seen += bucket.sample_count
    return buckets[-1].high_value


def coverage(
    files: Sequence[pathlib.Path], table: ItemTable
) -> dict[str, dict[str, int]]:
    """Counts candidates and behaviors whose item has a vector.

    Every occurrence of an item counts; padding does not.
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
