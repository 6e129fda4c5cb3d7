"""The metrics from their definitions: loops over pairs, plain Python."""

from __future__ import annotations

import math


def auc(labels, scores):
    """Share of (click, no click) pairs in order, ties half; None without."""
    wins = pairs = 0.0
    for label, score in zip(labels, scores, strict=True):
        for other_label, other in zip(labels, scores, strict=True):
            if label == 1 and other_label == 0:
                pairs += 1
                wins += 1.0 if score > other else 0.5 * (score == other)
    return wins / pairs if pairs else None


def per_user(users, labels, scores):
    """Returns (AUC, impressions) of every user that has an AUC, by user."""
    found = []
    for user in sorted(set(users)):
        mine = [i for i, owner in enumerate(users) if owner == user]
        value = auc([labels[i] for i in mine], [scores[i] for i in mine])
        if value is not None:
            found.append((value, len(mine)))
    return found


def weighted(pairs):
    total = sum(weight for _, weight in pairs)
    if not total:
        return math.nan
    return sum(value * weight for value, weight in pairs) / total


def metrics(users, labels, scores):
    """Every metric but the interval."""
    groups = per_user(users, labels, scores)
    overall = auc(labels, scores)
    losses = []
    for label, score in zip(labels, scores, strict=True):
        certain = min(max(score, 1e-7), 1 - 1e-7)
        losses.append(-math.log(certain if label else 1 - certain))
    clicks = sum(labels)
    return {
        "gauc": weighted(groups),
        "gauc_users": len(groups),
        "auc": math.nan if overall is None else overall,
        "log_loss": sum(losses) / len(losses),
        "calibration": sum(scores) / clicks if clicks else math.nan,
        "click_rate": clicks / len(labels),
        "impressions": len(labels),
    }
