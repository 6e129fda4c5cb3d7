"""Recall of held-out clicks, with intervals and baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tfx_pipeline.evaluation import bootstrap

KS = (1, 10, 50, 100, 500)
"""The k of recall@k; the recall of a whole answer is added."""


def choose_ks(num_candidates: int) -> tuple[int, ...]:
    """Returns the k of recall@k; the size of a whole answer is last."""
    return (*(k for k in KS if k < num_candidates), num_candidates)


def hits(
    answers: npt.NDArray[np.int64],
    users: npt.NDArray[np.int64],
    item_ids: npt.NDArray[np.int64],
    ks: Sequence[int],
) -> npt.NDArray[np.bool_]:
    """Returns which clicks are among the first k items, bool (n, len(ks)).

    Args:
        answers: int64 (U, K) item ids, best first.
        users: int64 (n,), row of ``answers`` of each click.
        item_ids: int64 (n,), the clicked items.
        ks: sizes, each at most K.
    """
    found = np.zeros((len(users), len(ks)), bool)
    for click, (user, item) in enumerate(zip(users, item_ids, strict=True)):
        places = np.flatnonzero(answers[user] == item)
        if len(places):
            found[click] = places[0] < np.asarray(ks)
    return found


def recall(
    found: npt.NDArray[np.bool_],
    users: npt.NDArray[np.int64],
    ks: Sequence[int],
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Returns the share of clicks that were found, by k.

    Each has ``recall``, and the ends ``low`` and ``high`` of the 95 % bootstrap
    interval over users; NaN if there are no clicks.
    """
    _, group, count = np.unique(users, return_inverse=True, return_counts=True)
    result = {}
    for column, k in enumerate(ks):
        per_user = (
            np.bincount(group, weights=found[:, column], minlength=len(count))
            / count
        )
        low, high = bootstrap.mean_interval(per_user, count, seed=seed)
        value = float(found[:, column].mean()) if len(found) else float("nan")
        result[str(k)] = {"recall": value, "low": low, "high": high}
    return result


def random_recall(
    num_items: int, share_known: float, ks: Sequence[int]
) -> dict[str, dict[str, float]]:
    """Returns the expected recall of random items.

    Args:
        num_items: number of items to draw from.
        share_known: share of the clicks whose item is one of them.
        ks: numbers of items drawn.
    """
    return {
        str(k): {"recall": share_known * min(1.0, k / num_items)} for k in ks
    }


def popular_first(
    item_ids: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], size: int
) -> npt.NDArray[np.int64]:
    """Returns the ids of the items with the highest counts, highest first."""
    return item_ids[np.argsort(-counts, kind="stable")[:size]]


def as_line(name: str, values: Mapping[str, Any]) -> str:
    """Returns the recall of one method as text."""
    parts = []
    for k, value in values.items():
        interval = (
            f" [{value['low']:.4f}, {value['high']:.4f}]"
            if "low" in value
            else ""
        )
        parts.append(f"@{k} {value['recall']:.4f}{interval}")
    return f"recall of {name}: " + ", ".join(parts)
