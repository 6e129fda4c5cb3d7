"""AUC of every user, in NumPy."""

from typing import Any, NamedTuple

import numpy as np


class PerGroupAUC(NamedTuple):
    """The AUC of every group that has one.

    Attributes:
        group_ids: int64 (G,), ascending; groups with both classes only.
        auc: float64 (G,).
        weight: float64 (G,), the sum of the group's sample weights, that is
            its impressions if there are none.
        num_skipped: int, groups of a single class, or without weight.
    """

    group_ids: np.ndarray
    auc: np.ndarray
    weight: np.ndarray
    num_skipped: int

    @property
    def weighted_mean(self) -> float:
        """GAUC: the mean AUC, weighted by impressions; NaN for no group."""
        if not self.weight.size:
            return float("nan")
        return float(np.average(self.auc, weights=self.weight))


def per_group_auc(
    y_true: Any, y_pred: Any, group_ids: Any, sample_weight: Any = None
) -> PerGroupAUC:
    """Return the exact AUC of every group.

    The AUC of a group is the share of its (click, non-click) pairs in which
    the click has the higher prediction; ties count one half. With sample
    weights a pair weighs the product of its two. Groups of a single class
    have no AUC and are left out. For intervals, resample the groups.

    Args:
        y_true: (n,), 0 or 1.
        y_pred: (n,), any monotone score.
        group_ids: integer (n,), any int64 values.
        sample_weight: (n,), >= 0, or None for 1 each.

    Returns:
        `PerGroupAUC`.

    Raises:
        ValueError: for arrays of unequal length, labels other than 0 and 1,
            predictions that are NaN, ids that are not integers, weights that
            are negative or not finite.

    Example:
    >>> from muse_keras.metrics import per_group_auc
    >>> result = per_group_auc([1, 0, 1, 1], [0.9, 0.1, 0.5, 0.2], [7, 7, 8, 8])
    >>> result.group_ids.tolist(), result.auc.tolist(), result.num_skipped
    ([7], [1.0], 1)
    """
    labels, scores, groups, weights = checked_impressions(
        y_true, y_pred, group_ids, sample_weight
    )
    order = np.lexsort((scores, groups))
    labels, scores, groups, weights = (
        array[order] for array in (labels, scores, groups, weights)
    )
    if not groups.size:
        empty = np.zeros(0)
        return PerGroupAUC(groups, empty, empty, 0)
    positive = np.where(labels, weights, 0.0)
    negative = weights - positive
    new_group = np.concatenate([[True], groups[1:] != groups[:-1]])
    # Blocks of equal predictions within a group.
    new_block = new_group.copy()
    new_block[1:] |= scores[1:] != scores[:-1]
    blocks = np.flatnonzero(new_block)
    block_positive = np.add.reduceat(positive, blocks)
    block_negative = np.add.reduceat(negative, blocks)
    starts = np.flatnonzero(new_group[blocks])
    group_positive = np.add.reduceat(block_positive, starts)
    group_negative = np.add.reduceat(block_negative, starts)
    below = _sums_before(block_negative, starts)
    wins = np.add.reduceat(
        block_positive * (below + 0.5 * block_negative), starts
    )
    both = (group_positive > 0.0) & (group_negative > 0.0)
    pairs = group_positive[both] * group_negative[both]
    return PerGroupAUC(
        groups[blocks[starts]][both],
        wins[both] / pairs,
        (group_positive + group_negative)[both],
        int(both.size - both.sum()),
    )


def checked_impressions(
    y_true: Any, y_pred: Any, group_ids: Any, sample_weight: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return flat labels, scores, int64 groups and weights; see above."""
    labels = np.asarray(y_true)
    scores = np.asarray(y_pred)
    groups = np.asarray(group_ids)
    weights = (
        np.ones(labels.shape)
        if sample_weight is None
        else np.asarray(sample_weight, np.float64)
    )
    for name, array in (
        ("y_pred", scores),
        ("group_ids", groups),
        ("sample_weight", weights),
    ):
        if array.shape != labels.shape:
            raise ValueError(
                f"`{name}` must have the shape of `y_true`, {labels.shape}. "
                f"Received: {name}.shape={array.shape}"
            )
    if labels.size and not np.isin(labels, (0, 1)).all():
        raise ValueError(
            "`y_true` must be 0 or 1. Received: "
            f"{np.unique(labels[~np.isin(labels, (0, 1))])[:5].tolist()}"
        )
    if not np.issubdtype(groups.dtype, np.integer):
        if groups.size:
            raise ValueError(
                "`group_ids` must be integers. Received: "
                f"group_ids.dtype={groups.dtype}"
            )
        groups = groups.astype(np.int64)
    if groups.dtype == np.uint64:
        # Wrapping keeps distinct groups distinct.
        groups = groups.view(np.int64)
    if scores.dtype.kind != "f" or scores.dtype.itemsize < 4:
        # float16 and bfloat16 are exact in float32; integers in float64.
        kind = np.float64 if scores.dtype.kind in "iub" else np.float32
        scores = scores.astype(kind)
    if np.isnan(scores).any():
        raise ValueError("`y_pred` must not be NaN.")
    if not (np.isfinite(weights) & (weights >= 0.0)).all():
        raise ValueError("`sample_weight` must be finite and at least 0.")
    return (
        labels.reshape(-1).astype(bool),
        scores.reshape(-1),
        groups.reshape(-1).astype(np.int64),
        weights.reshape(-1),
    )


def _sums_before(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return the sum of the values before each one in its own segment."""
    lengths = np.diff(np.append(starts, values.size))
    running = np.cumsum(values) - values
    return running - np.repeat(running[starts], lengths)
