"""NDCG, reciprocal rank and recall of every user, in NumPy."""

from typing import Any, NamedTuple

import numpy as np

from muse_keras._ops.checks import integer
from muse_keras.metrics.per_group_auc import checked_impressions


class PerGroupRanking(NamedTuple):
    """How high the clicks of every group are.

    Attributes:
        group_ids: int64 (G,), ascending; groups with both classes only, which
            are those of `per_group_auc`.
        ndcg: float64 (G,), discounted cumulative gain of the k highest over
            that of the best order.
        reciprocal_rank: float64 (G,), of the first click.
        recall: float64 (G,), share of the clicks among the k highest.
    """

    group_ids: np.ndarray
    ndcg: np.ndarray
    reciprocal_rank: np.ndarray
    recall: np.ndarray


def per_group_ranking(
    y_true: Any, y_pred: Any, group_ids: Any, k: int = 10
) -> PerGroupRanking:
    """Return NDCG@k, reciprocal rank and recall@k of every group.

    A click gains 1, discounted by `log2(rank + 1)`. Equal predictions have no
    order: each number is its mean over all orders of them.

    Args:
        y_true: (n,), 0 or 1.
        y_pred: (n,), any monotone score.
        group_ids: integer (n,), any int64 values.
        k: int, length of the list for NDCG and recall.

    Returns:
        `PerGroupRanking`.

    Raises:
        ValueError: as `per_group_auc` does.

    Example:
    >>> from muse_keras.metrics import per_group_ranking
    >>> found = per_group_ranking([0, 1, 0], [0.9, 0.5, 0.1], [7, 7, 7], k=1)
    >>> found.reciprocal_rank.tolist(), found.recall.tolist()
    ([0.5], [0.0])
    """
    k = integer("k", k)
    labels, scores, groups, _ = checked_impressions(
        y_true, y_pred, group_ids, None
    )
    order = np.lexsort((-scores, groups))
    labels, scores, groups = labels[order], scores[order], groups[order]
    if not groups.size:
        empty = np.zeros(0)
        return PerGroupRanking(groups, empty, empty, empty)
    new_group = np.concatenate([[True], groups[1:] != groups[:-1]])
    new_block = new_group.copy()
    new_block[1:] |= scores[1:] != scores[:-1]
    blocks = np.flatnonzero(new_block)
    size = np.diff(np.append(blocks, groups.size))
    clicks = np.add.reduceat(labels.astype(np.int64), blocks)
    # Of each group, its first block; of each block, how many are above it.
    starts = np.flatnonzero(new_group[blocks])
    counts = np.diff(np.append(starts, blocks.size))
    above = blocks - np.repeat(blocks[starts], counts)
    total = np.add.reduceat(clicks, starts)
    length = np.add.reduceat(size, starts)
    discounts = np.concatenate(
        [[0.0], np.cumsum(1.0 / np.log2(np.arange(2, k + 2)))]
    )
    gain = discounts[np.minimum(above + size, k)]
    gain = (gain - discounts[np.minimum(above, k)]) * clicks / size
    shown = np.clip(k - above, 0, size) * clicks / size
    both = (total > 0) & (total < length)
    best = discounts[np.minimum(total[both], k)]
    first = _first_with_clicks(clicks, starts, counts)[both]
    return PerGroupRanking(
        groups[blocks[starts]][both],
        np.add.reduceat(gain, starts)[both] / best,
        _reciprocal_ranks(above[first], size[first], clicks[first]),
        np.add.reduceat(shown, starts)[both] / total[both],
    )


def _first_with_clicks(
    clicks: np.ndarray, starts: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """Return each group's first block with a click, or its first one."""
    blocks = np.arange(clicks.size)
    none = clicks.size
    first = np.minimum.reduceat(np.where(clicks > 0, blocks, none), starts)
    return np.where(first < starts + counts, first, starts)


def _reciprocal_ranks(
    above: np.ndarray, size: np.ndarray, clicks: np.ndarray
) -> np.ndarray:
    """Return the mean of 1 / rank of the first click, over a block's orders."""
    # The first place is a click with probability clicks / size; if it is not,
    # the same holds for the places that remain.
    found = np.zeros(above.size)
    open_, missed, place = np.arange(above.size), np.ones(above.size), 0
    while open_.size:
        hit = np.minimum(clicks[open_] / (size[open_] - place), 1.0)
        found[open_] += missed * hit / (above[open_] + place + 1)
        missed = missed * (1.0 - hit)
        open_, missed = open_[missed > 0.0], missed[missed > 0.0]
        place += 1
    return found
