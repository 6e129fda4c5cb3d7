"""SimTier histograms and the worked example, from explained requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from tfx_pipeline import features
from tfx_pipeline.report.contents import (
    Candidate,
    Retrieved,
    TierHistogram,
    WorkedExample,
)

__all__ = ["tier_histogram", "worked_example"]

_SHOWN = 8

Arrays = Mapping[str, np.ndarray]
Names = Callable[[Iterable[int]], Mapping[int, str]]


def tier_histogram(
    model: str, requests: Sequence[Arrays], answers: Sequence[Arrays]
) -> TierHistogram | None:
    """Averages SimTier counts over clicked and other candidates.

    Args:
        model: name of the model.
        requests: parsed requests.
        answers: their explanations.

    Returns:
        The histogram; None when either kind is missing.
    """
    clicks = np.concatenate([one[features.CLICKS] for one in requests]) > 0
    tiers = np.concatenate([one["tiers"] for one in answers])
    if clicks.all() or not clicks.any():
        return None
    return TierHistogram(
        model=model,
        edges=np.linspace(-1, 1, tiers.shape[1] + 1).round(6).tolist(),
        clicked=tiers[clicks].mean(axis=0).tolist(),
        not_clicked=tiers[~clicks].mean(axis=0).tolist(),
        clicked_candidates=int(clicks.sum()),
        not_clicked_candidates=int((~clicks).sum()),
        requests=len(requests),
    )


def worked_example(
    model: str,
    requests: Sequence[Arrays],
    answers: Sequence[Arrays],
    find_names: Names,
) -> WorkedExample | None:
    """Tells one request in words.

    It is the first of the sample with a full retrieval whose best candidate
    was clicked, or the first with any retrieval.

    Args:
        model: name of the model.
        requests: parsed requests.
        answers: their explanations.
        find_names: item ids to names, where known.
    """
    best = [int(one["click_probability"].argmax()) for one in answers]
    hits = [
        bool(one[features.CLICKS][place])
        for one, place in zip(requests, best, strict=True)
    ]
    found = [
        int((one["behavior_indices"][place] >= 0).sum())
        for one, place in zip(answers, best, strict=True)
    ]
    widths = [one["behavior_indices"].shape[1] for one in answers]
    usable = [index for index, count in enumerate(found) if count]
    if not usable:
        return None
    good = [i for i in usable if hits[i] and found[i] == widths[i]]
    index = (good or usable)[0]
    request, answer, place = requests[index], answers[index], best[index]
    history = request[features.BEHAVIOR_ITEM_IDS]
    candidates = request[features.CANDIDATE_ITEM_IDS]
    names = find_names({*candidates.tolist(), *history.tolist()})

    def name(item: int) -> str:
        return names.get(item) or f"item {item}"

    order = np.argsort(-answer["click_probability"], kind="stable")
    return WorkedExample(
        model=model,
        user_id=int(request[features.USER_ID][0]),
        history_length=int(np.count_nonzero(history)),
        retrieved_count=found[index],
        candidates=[
            Candidate(
                name=name(int(candidates[one])),
                score=float(answer["click_probability"][one]),
                clicked=bool(request[features.CLICKS][one]),
            )
            for one in order[:5]
        ],
        candidate_count=len(candidates),
        retrieved=_grouped(answer, place, history, name)[:_SHOWN],
        top_clicked_rate=float(np.mean(hits)),
        has_names=bool(names),
    )


def _grouped(
    answer: Arrays, place: int, history: np.ndarray, name: Callable[[int], str]
) -> list[Retrieved]:
    """Returns retrieved behaviours by item, most similar first."""
    positions = answer["behavior_indices"][place]
    real = positions >= 0
    groups: dict[int, list[int]] = {}
    for slot in np.flatnonzero(real):
        groups.setdefault(int(history[positions[slot]]), []).append(int(slot))
    rows = [
        Retrieved(
            name=name(item),
            times=len(slots),
            similarity=float(answer["similarities"][place, slots[0]]),
            attention=float(answer["attention"][place, slots].sum()),
            behaviours_ago=len(history) - int(positions[slots].max()),
        )
        for item, slots in groups.items()
    ]
    return sorted(rows, key=lambda row: -row.similarity)
