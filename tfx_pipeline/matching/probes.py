"""Chooses how many clusters an index searches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfx_pipeline.matching.index import Clustered, Exact

_Floats = npt.NDArray[np.float32]


def choose(
    index: Clustered, exact: Any, samples: Sequence[_Floats], least: float
) -> int:
    """Returns the number of clusters that are searched from now on.

    It is the smallest power of two, or all clusters, with which the index finds
    at least a share ``least`` of the exact answers in each sample.

    Args:
        index: receives the number.
        exact: an exact index of the same items.
        samples: queries, float32 (n, D + 1) each; empty ones do not count.
        least: share, in (0, 1].
    """
    wanted = [
        (queries, best_rows(exact, queries))
        for queries in samples
        if len(queries)
    ]
    probes = 1
    while True:
        index.assign_probes(probes)
        if (
            min(share_found(index, *one) for one in wanted) >= least
            or probes == index.num_clusters
        ):
            return probes
        probes = min(2 * probes, index.num_clusters)


def share_found(
    index: Clustered | Exact, queries: _Floats, wanted: npt.NDArray[np.integer]
) -> float:
    """Returns the share of rows ``wanted`` (n, k) that an index finds."""
    pairs = zip(best_rows(index.search, queries), wanted, strict=True)
    return float(
        np.mean([np.isin(found, rows).mean() for found, rows in pairs])
    )


def best_rows(search: Any, queries: _Floats) -> npt.NDArray[np.integer]:
    """Returns the rows (n, k) that a search finds for queries."""
    rows: npt.NDArray[np.integer] = search(tf.constant(queries))[1].numpy()
    return rows
