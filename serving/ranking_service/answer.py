"""One request, from its arrival to an answer in time.

The candidates are found while the user's history is read and put into the
user cache. Then the paths are tried one after the other, each within its
budget, until one has scores: cached, full, shortened, no history.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from serving.client import (
    CachedRankRequest,
    RankRequest,
    RecommendRequest,
    ResponseError,
)
from serving.client.ranking import RankingResult
from serving.ranking_service.histories import NO_HISTORY
from serving.ranking_service.targets import Target
from serving.ranking_service.work import Work
from serving.stores import UserHistory

__all__ = ["answer"]

_TRIES = 3
_PAUSE_S = 0.01
_FALLBACKS = ("rank_shortened", "rank_no_history")


@dataclasses.dataclass(eq=False)
class _Scores:
    """What one path found."""

    path: str
    values: np.ndarray
    length: int
    generation: int = 0


async def answer(work: Work, overloaded: Callable[[], bool]) -> RankingResult:
    """Answers, at the latest when the time is over.

    Args:
        work: the request.
        overloaded: tells whether a late prefetch must not go on.
    """
    prefetches = work.parts.prefetches
    if work.parts.histories.exist:
        work.flow = prefetches.join(work.request.user_id, work.recorder)
    try:
        candidates, source = await _find_candidates(work)
        scores = None
        if len(candidates):
            if work.flow is not None:
                seconds = max(0.0, work.time_for("prefetch", *_FALLBACKS))
                await asyncio.wait({work.flow.task}, timeout=seconds)
            scores = await _best_scores(work, candidates)
    finally:
        if work.flow is not None:
            prefetches.leave(work.flow, overloaded())
    for span in work.flow.spans if work.flow else ():
        work.recorder.adopt(span)
    if scores is None:
        scores = _Scores("unranked", np.zeros(0, np.float32), 0)
    return RankingResult(
        candidate_item_ids=candidates,
        click_probability=scores.values,
        path=scores.path,
        history_length=scores.length,
        generation=scores.generation,
        cache_hit=scores.path == "cached",
        stages=work.recorder.stages(),
        total_ms=work.recorder.elapsed_ms(),
        request_id=work.request.request_id,
        candidates_from=source,
    )


async def _find_candidates(work: Work) -> tuple[np.ndarray, str]:
    """Returns the items to rank, int64 (C,), and where they come from.

    Matching is waited for as long as popular items can still be ranked
    instead.
    """
    given = work.request.candidate_item_ids
    if given is not None:
        return np.asarray(given, np.int64), "request"
    number = work.request.num_candidates or work.config.num_candidates
    popular = work.parts.popular[:number]
    if not work.config.matching_model:
        return popular, "popular"
    seconds = work.left
    if len(popular):
        seconds = work.time_for("matching", *_FALLBACKS)
    kept = work.left - seconds
    behaviors = await _read_newest(work)

    async def call(target: Target, seconds: float) -> np.ndarray:
        found = await target.client.recommend(
            RecommendRequest(behaviors.item_ids, number),
            model=work.config.matching_model,
            timeout=seconds,
        )
        ids = np.asarray(found.candidate_item_ids, np.int64)
        return ids[ids != 0]

    found = await work.stage("matching", work.left - kept, work.order, call)
    if found is not None and len(found):
        return found, "matching"
    return popular, "popular"


async def _read_newest(work: Work) -> UserHistory:
    """Reads the few behaviors that matching needs."""
    length, name = work.config.matching_length, "store_read_newest"
    histories = work.parts.histories
    if histories.exist and length:
        seconds = work.time_for(name, *_FALLBACKS)
        if seconds <= 0:
            work.recorder.skip(name)
        else:
            with work.recorder.stage(name) as stage:
                work.newest = await asyncio.wait_for(
                    histories.read(work.request.user_id, length), seconds
                )
                if work.newest is None:
                    stage.outcome = "miss"
    return NO_HISTORY if work.newest is None else work.newest


async def _best_scores(work: Work, candidates: np.ndarray) -> _Scores | None:
    """Tries cached, full, shortened and no history, in this order.

    A path that cannot give anything is left out: without a history in hand
    only the cache may have one, and a history in hand that is not in the
    cache is newer than what the cache may have.
    """
    history = None if work.flow is None else work.flow.history
    if work.flow is None or (
        work.flow.cached if history else not work.flow.unknown
    ):
        found = await _from_cache(work, candidates)
        if found is not None:
            return found
    if history:
        short = history.newest(work.config.shortened_length)
        shortens = len(short) < len(history)
        later = _FALLBACKS if shortens else ("rank_no_history",)
        seconds = work.time_for("rank_full", *later)
        found = await _with_history(work, candidates, "full", history, seconds)
        if found is None and shortens:
            seconds = work.time_for("rank_shortened", "rank_no_history")
            found = await _with_history(
                work, candidates, "shortened", short, seconds
            )
        if found is not None:
            return found
    return await _without_history(work, candidates)


async def _from_cache(work: Work, candidates: np.ndarray) -> _Scores | None:
    flow, user_id = work.flow, work.request.user_id
    order = work.order[:1]
    if flow is not None and flow.target is not None:
        order = [flow.target]

    async def call(target: Target, seconds: float) -> _Scores | None:
        found = await target.client.rank_cached(
            CachedRankRequest(user_id=user_id, candidate_item_ids=candidates),
            timeout=seconds,
        )
        generation = int(found.generation)
        outdated = flow is not None and flow.outdates(generation)
        hit = found.cache_hit and not outdated
        work.parts.metrics.cache.labels("hit" if hit else "miss").inc()
        if not hit:
            return None
        return _Scores(
            "cached",
            _checked(found.click_probability, candidates),
            work.parts.prefetches.length(target, user_id, generation),
            generation,
        )

    seconds = work.time_for("rank_cached", "rank_no_history")
    return await work.stage("rank_cached", seconds, order, call)


async def _without_history(
    work: Work, candidates: np.ndarray
) -> _Scores | None:
    """Asks one server after the other, each a few times.

    Each gets its budget, or its share of the time if that is less; the last
    one gets all that is left.
    """
    known = work.newest if work.flow is None else work.flow.history
    if known is None:
        known = NO_HISTORY if work.newest is None else work.newest
    nothing = known.newest(0)
    order, servers = work.order, len(work.order)
    for number in range(max(_TRIES, servers)):
        if number >= servers:
            await asyncio.sleep(_PAUSE_S)
        seconds, waiting = work.left, servers - number
        if waiting > 1:
            seconds = min(work.time_for("rank_no_history"), seconds / waiting)
        target = order[number % servers]
        found = await _with_history(
            work, candidates, "no_history", nothing, seconds, [target]
        )
        if found is not None or work.left <= 0:
            return found
    return None


async def _with_history(
    work: Work,
    candidates: np.ndarray,
    path: str,
    history: UserHistory,
    seconds: float,
    order: list[Target] | None = None,
) -> _Scores | None:
    async def call(target: Target, seconds: float) -> _Scores:
        request = RankRequest(
            user_id=work.request.user_id,
            user_profile=history.profile,
            behavior_item_ids=history.item_ids,
            behavior_category_ids=history.category_ids,
            candidate_item_ids=candidates,
        )
        found = await target.client.rank(request, timeout=seconds)
        scores = _checked(found.click_probability, candidates)
        return _Scores(path, scores, len(history))

    return await work.stage(f"rank_{path}", seconds, order or work.order, call)


def _checked(values: Any, candidates: np.ndarray) -> np.ndarray:
    scores = np.asarray(values, np.float32)
    # NaN fails both comparisons.
    if scores.shape != candidates.shape or not (
        (scores >= 0).all() and (scores <= 1).all()
    ):
        raise ResponseError("the scores are no probabilities")
    return scores
