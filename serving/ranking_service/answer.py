"""One request, from its arrival to an answer in time.

The candidates are found while the user's history is read and put into the
user cache. Then the paths of `Rankings` are tried one after the other, each
within its budget, until one has scores.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np

from serving.client.ranking import RankingResult
from serving.ranking_service.candidates import find_candidates
from serving.ranking_service.rankings import Rankings, Scores
from serving.ranking_service.work import Work

__all__ = ["answer"]


async def answer(work: Work, overloaded: Callable[[], bool]) -> RankingResult:
    """Answers, at the latest when the time is over."""
    prefetches = work.parts.prefetches
    if work.parts.histories.exist:
        work.flow = prefetches.join(work.request.user_id, work.recorder)
    try:
        candidates, source = await find_candidates(work)
        scores = None
        if len(candidates):
            await _wait_for_prefetch(work)
            scores = await Rankings(work, candidates).best()
        return _result(work, candidates, source, scores)
    finally:
        if work.flow is not None:
            prefetches.leave(work.flow, overloaded())


async def _wait_for_prefetch(work: Work) -> None:
    if work.flow is not None:
        seconds = work.time_for("prefetch", "rank_shortened", "rank_no_history")
        await asyncio.wait({work.flow.task}, timeout=max(0.0, seconds))


def _result(
    work: Work, candidates: np.ndarray, source: str, scores: Scores | None
) -> RankingResult:
    for span in work.flow.spans if work.flow else ():
        work.recorder.adopt(span)
    return RankingResult(
        candidate_item_ids=candidates,
        click_probability=(
            np.zeros(0, np.float32) if scores is None else scores.values
        ),
        path="unranked" if scores is None else scores.path,
        history_length=0 if scores is None else scores.length,
        generation=0 if scores is None else scores.generation,
        cache_hit=scores is not None and scores.path == "cached",
        stages=work.recorder.stages(),
        total_ms=work.recorder.elapsed_ms(),
        request_id=work.request.request_id,
        candidates_from=source,
    )
