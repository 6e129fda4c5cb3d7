"""Sends a request to the ranking service and keeps it for the report."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np

from muse_tools.datasets import user_lookup
from serving.client.ranking import (
    RankingClient,
    RankingRequest,
    RankingResult,
    Stage,
)
from serving.client.types import Id, IdList
from serving.ranking_service import ServiceConfig, running_service, timeline

FILE = "ranked_request.json"
DEADLINE_MS = 300.0
WARM_UP, REQUESTS, TOP = 10, 15, 5


@dataclasses.dataclass(frozen=True)
class RankedRequest:
    """Of several equal requests, the one with the median total time.

    `history_length` is the length of the history that was scored. `cached`
    counts the requests that were ranked from the cache. `top` has `item_id`,
    `name` and `click_probability` (None if candidates are unranked).
    """

    model_version: str
    user_id: Id
    history_length: int
    num_candidates: int
    candidates_from: str
    path: str
    deadline_ms: float
    total_ms: float
    stages: tuple[Stage, ...]
    requests: int
    cached: int
    slowest_ms: float
    top: tuple[dict[str, Any], ...]


def source_words(candidates_from: str) -> str:
    """Returns the source of candidates, as words after "candidates"."""
    known = {
        "matching": "found by candidate generation",
        "popular": "that are the most popular ones",
        "request": "of the request",
    }
    return known.get(candidates_from, f"from {candidates_from}")


def send(
    target: str,
    store: str,
    user_id: Id,
    directory: pathlib.Path,
    model_version: str,
    candidate_item_ids: IdList | None = None,
) -> RankedRequest:
    """Starts a ranking service beside a model server and calls it.

    The first requests open connections and are not measured.
    """
    config = ServiceConfig(
        store=store,
        targets=(target,),
        matching_model="matching" if candidate_item_ids is None else "",
        port=0,
        rest_port=-1,
        log_requests=False,
    )
    request = RankingRequest(
        user_id, candidate_item_ids, deadline_ms=DEADLINE_MS
    )
    with running_service(config) as app, RankingClient(app.grpc_target) as ask:
        answers = [ask.rank(request) for _ in range(WARM_UP + REQUESTS)]
    measured = answers[WARM_UP:]
    shown = timeline.median(measured)
    return RankedRequest(
        model_version=model_version,
        user_id=user_id,
        history_length=shown.history_length,
        num_candidates=len(shown.candidate_item_ids),
        candidates_from=shown.candidates_from,
        path=shown.path,
        deadline_ms=DEADLINE_MS,
        total_ms=shown.total_ms,
        stages=shown.stages,
        requests=len(measured),
        cached=sum(answer.path == "cached" for answer in measured),
        slowest_ms=max(answer.total_ms for answer in measured),
        top=_top(shown, directory),
    )


def _top(
    result: RankingResult, directory: pathlib.Path
) -> tuple[dict[str, Any], ...]:
    best = result.order()[:TOP].tolist()
    ids = result.candidate_item_ids[best].tolist()
    names = {one: one for one in ids}  # If keys are texts.
    if result.candidate_item_ids.dtype == np.int64:
        names = user_lookup.item_names(directory, ids)
    scores = result.click_probability
    return tuple(
        {
            "item_id": item,
            "name": names.get(item, f"item {item}"),
            "click_probability": float(scores[place]) if len(scores) else None,
        }
        for item, place in zip(ids, best, strict=True)
    )
