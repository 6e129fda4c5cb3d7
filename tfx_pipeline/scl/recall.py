"""How often the item that was bought is among the nearest ones, exactly."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from muse_keras.tables.array_blocks import blocks

# The rank of an item that no search can return.
MISSED = np.iinfo(np.int64).max

# Scores this close are equal: products of the same vectors in another place
# of a matrix may be rounded differently.
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
    """Returns at which place each query finds its true item, from 0.

    The place is the number of other items whose scalar product with the query
    is as high or higher: a tie counts against the true item, so that equal
    vectors for everything earn nothing. Zero vectors are items without
    content and do not compete; a true item (-1) or query without a vector has
    the rank `MISSED`. So many queries, and items, are compared at a time as a
    block has; memory is its square.

    Returns:
        dict of "all" and, with groups (N,), "same_category": int64 (Q,).

    Raises:
        ValueError: for arrays that do not fit one another.
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
            # The true item itself is not ahead of itself.
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
    """Returns the share of ranks below k; NaN without any."""
    return float(np.mean(values < k)) if len(values) else float("nan")


def _check(
    queries: Vectors,
    true_items: Integers,
    items: Vectors,
    groups: npt.NDArray[np.generic] | None,
) -> None:
    """Raises `ValueError` for arrays that do not fit one another."""
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
