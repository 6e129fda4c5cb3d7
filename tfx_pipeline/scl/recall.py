"""Exact recall of the purchased item among the nearest items."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from muse_keras.tables.array_blocks import blocks

# Rank of an item that a search cannot find.
MISSED = np.iinfo(np.int64).max

# Scores with a smaller difference are equal: the rounding of a product depends
# on the position of the vectors in a matrix.
_TIE = 1e-6

Vectors = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


def ranks(
    query_vectors: Vectors,
    true_items: npt.ArrayLike,
    item_vectors: Vectors,
    groups: npt.ArrayLike | None = None,
    block: int = 4096,
) -> dict[str, Integers]:
    """Returns the rank of each query's true item, from 0.

    The rank is the number of other items whose dot product with the query is at
    least as high. Ties count against the true item, so that equal vectors for
    all items give no recall. Items with a zero vector (without content) are
    ignored. If the true item is unknown (-1), or it or the query has no vector,
    the rank is `MISSED`. ``block`` queries and items are compared at a time;
    memory grows with its square.

    Args:
        query_vectors: float32 (Q, D).
        true_items: int64 (Q,), rows of ``item_vectors``, or -1.
        item_vectors: float32 (N, D).
        groups: (N,), the category of each item, or None.
        block: number of queries, and of items, compared at a time.

    Returns:
        Ranks int64 (Q,) by name: "all" and, with groups, "same_category".

    Raises:
        ValueError: shapes or values do not match.
    """
    items = np.asarray(true_items, np.int64)
    classes = None if groups is None else np.asarray(groups)
    _check(query_vectors, items, item_vectors, classes)
    names = ["all"] if classes is None else ["all", "same_category"]
    result = {name: np.zeros(len(items), np.int64) for name in names}
    exists = np.asarray(item_vectors.any(axis=1))
    known = items >= 0
    for part in blocks(len(items), block):
        queries = query_vectors[part]
        true = np.maximum(items[part], 0)
        score = np.einsum("qd,qd->q", queries, item_vectors[true]) - _TIE
        for other in blocks(len(item_vectors), block):
            scores = queries @ item_vectors[other].T
            ahead = (scores >= score[:, None]) & exists[other]
            # The true item does not compete with itself.
            inside = (true >= other.start) & (true < other.stop)
            ahead[inside, true[inside] - other.start] = False
            result["all"][part] += ahead.sum(axis=1)
            if classes is not None:
                same = classes[other] == classes[true][:, None]
                result["same_category"][part] += (ahead & same).sum(axis=1)
        missed = ~(known[part] & exists[true] & queries.any(axis=1))
        for values in result.values():
            values[part][missed] = MISSED
    return result


def recall_of_ranks(values: Integers, k: int) -> float:
    """Returns the share of ranks below k; NaN if there are none."""
    return float(np.mean(values < k)) if len(values) else float("nan")


def _check(
    queries: Vectors,
    true_items: Integers,
    items: Vectors,
    groups: npt.NDArray[np.generic] | None,
) -> None:
    """Raises `ValueError` if shapes or values do not match."""
    if queries.shape != (len(true_items), items.shape[1]):
        raise ValueError(
            "`query_vectors` must have a row for each of the "
            f"{len(true_items)} true items, and {items.shape[1]} columns. "
            f"Received: shape={queries.shape}"
        )
    if len(true_items) and (
        true_items.min() < -1 or true_items.max() >= len(items)
    ):
        raise ValueError(
            f"`true_items` must be rows of the {len(items)} items, or -1. "
            f"Received: {true_items.min()} to {true_items.max()}"
        )
    if groups is not None and groups.shape != (len(items),):
        raise ValueError(
            f"`groups` must have an entry for each of the {len(items)} items. "
            f"Received: shape={groups.shape}"
        )
