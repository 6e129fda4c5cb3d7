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


def of_list(labels, scores, k):
    """Returns NDCG@k, reciprocal rank and recall@k, over all orders of ties."""
    total = sum(labels)
    if total in (0, len(labels)):
        return None
    gain = recall = 0.0
    above, first = 0, None
    for score in sorted(set(scores), reverse=True):
        tied = [x for x, s in zip(labels, scores, strict=True) if s == score]
        n, p = len(tied), sum(tied)
        for place in range(above + 1, above + n + 1):
            if place <= k:
                gain += p / n / math.log2(place + 1)
                recall += p / n / total
        if p and first is None:
            first = sum(
                math.comb(n - j, p - 1) / math.comb(n, p) / (above + j)
                for j in range(1, n - p + 2)
            )
        above += n
    best = sum(1 / math.log2(i + 1) for i in range(1, min(total, k) + 1))
    return gain / best, first, recall


def mean_of_lists(users, labels, scores, k=10):
    """Means of `of_list` over the users that have both labels."""
    found = []
    for user in sorted(set(users)):
        mine = [i for i, owner in enumerate(users) if owner == user]
        one = of_list([labels[i] for i in mine], [scores[i] for i in mine], k)
        if one is not None:
            found.append(one)
    if not found:
        return (math.nan,) * 3
    return tuple(
        sum(column) / len(found) for column in zip(*found, strict=True)
    )


def normalized_entropy(losses, labels, weights=None):
    """Log loss over that of the click rate."""
    weights = weights or [1.0] * len(labels)
    total = sum(weights)
    rate = sum(w * x for w, x in zip(weights, labels, strict=True)) / total
    if rate in (0, 1):
        return math.nan
    loss = sum(w * x for w, x in zip(weights, losses, strict=True)) / total
    return loss / -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))


def entropy_half_width(users, losses, labels, step=1e-6):
    """1.96 deviations of it over users, by what each user's weight changes."""
    value = normalized_entropy(losses, labels)
    squares = 0.0
    for user in set(users):
        weights = [1 + step * (owner == user) for owner in users]
        moved = normalized_entropy(losses, labels, weights)
        squares += ((moved - value) / step) ** 2
    return 1.959964 * math.sqrt(squares)


def calibration_error(labels, scores, bins=20):
    """Bins are unions of eighths of octaves of scores."""

    def eighth(score):
        fraction, exponent = math.frexp(score)
        return (score > 0, exponent, math.floor((2 * fraction - 1) * 8))

    error = 0.0
    held = []
    for name in sorted({eighth(score) for score in scores}):
        held += [
            (score, label)
            for score, label in zip(scores, labels, strict=True)
            if eighth(score) == name
        ]
        if len(held) * bins >= len(labels):
            error += abs(sum(s for s, _ in held) - sum(x for _, x in held))
            held = []
    error += abs(sum(s for s, _ in held) - sum(x for _, x in held))
    return error / len(labels)


def weighted(pairs):
    total = sum(weight for _, weight in pairs)
    if not total:
        return math.nan
    return sum(value * weight for value, weight in pairs) / total


def metrics(users, labels, scores):
    """Every metric but the intervals."""
    groups = per_user(users, labels, scores)
    overall = auc(labels, scores)
    losses = []
    for label, score in zip(labels, scores, strict=True):
        certain = min(max(score, 1e-7), 1 - 1e-7)
        losses.append(-math.log(certain if label else 1 - certain))
    clicks = sum(labels)
    ndcg, mrr, recall = mean_of_lists(users, labels, scores)
    return {
        "gauc": weighted(groups),
        "gauc_users": len(groups),
        "auc": math.nan if overall is None else overall,
        "log_loss": sum(losses) / len(losses),
        "calibration": sum(scores) / clicks if clicks else math.nan,
        "click_rate": clicks / len(labels),
        "impressions": len(labels),
        "ndcg_10": ndcg,
        "mrr": mrr,
        "recall_10": recall,
        "normalized_entropy": normalized_entropy(losses, labels),
        "calibration_error": calibration_error(labels, scores),
    }
