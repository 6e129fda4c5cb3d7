"""One request, from its arrival to an answer in time.

Two things run side by side. *The ladder* tries the best ranking that still
fits: from the cache, with the full history, with a shortened one. *The hedge*
ranks without a history, early enough that an answer is in hand when the time
is over. Whatever is not needed any more is cancelled.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from serving.client.ranking import RankingRequest, RankingResult
from serving.service.candidates import find_candidates
from serving.service.ladder import Ladder
from serving.service.rankings import Rankings, Scores
from serving.service.spans import Recorder
from serving.service.targets import Target
from serving.service.work import Parts, Work

__all__ = ["Answering"]

_logger = logging.getLogger(__name__)


class Answering:
    """Answers one request.

    Args:
        parts: what all requests share.
        request: what is asked.
        recorder: collects the stages.
        ends: when the answer must be there, by `time.monotonic`.
    """

    def __init__(
        self,
        parts: Parts,
        request: RankingRequest,
        recorder: Recorder,
        ends: float,
    ) -> None:
        """Keeps the settings; see the class for the arguments."""
        self._work = Work(parts, request, recorder, ends)
        self._reading: asyncio.Task[Any] | None = None

    async def answer(self, overloaded: Callable[[], bool]) -> RankingResult:
        """Answers, at the latest when the time is over.

        Args:
            overloaded: tells whether a late prefetch must not go on.
        """
        work = self._work
        prefetches = work.parts.prefetches
        if work.parts.histories.exist:
            work.flow = prefetches.join(work.request.user_id)
        try:
            candidates, source = await find_candidates(work)
            scores = await self._rank(candidates) if len(candidates) else None
            work.recorder.cut("timeout" if work.left <= 0 else "cancelled")
            return self._result(candidates, source, scores)
        finally:
            work.end()
            if work.flow is not None:
                prefetches.leave(work.flow, overloaded())

    async def _rank(self, candidates: np.ndarray) -> Scores | None:
        work = self._work
        rankings = Rankings(work, candidates)
        ladder = Ladder(work, len(candidates))
        step: asyncio.Task[Scores | None] | None = None
        hedge: asyncio.Task[Scores | None] | None = None
        in_hand: Scores | None = None
        hedge_at = work.ends - work.config.hedge * work.usual(
            "rank_no_history", len(candidates)
        )
        while True:
            now = time.monotonic()
            if now >= work.ends:
                return in_hand
            wake = work.ends
            waiting: set[asyncio.Future[Any]] = set()
            exhausted = False
            if step is None:
                path, until = ladder.next()
                if path:
                    step = work.spawn(rankings.by_path(path))
                elif until is None:
                    exhausted = True
                else:
                    wake = min(wake, until)
                    waiting |= self._flow_events()
            if exhausted and hedge is not None and hedge.done():
                return in_hand
            if hedge is None and (exhausted or now >= hedge_at):
                order = work.order if exhausted else self._others_first()
                hedge = work.spawn(rankings.without_history(order))
            if hedge is None:
                wake = min(wake, hedge_at)
            waiting |= {t for t in (step, hedge) if t and not t.done()}
            await _first(waiting, wake)
            if step is not None and step.done():
                found = _outcome(step)
                if found is not None:
                    return found
                step = None
            if hedge is not None and hedge.done() and in_hand is None:
                in_hand = _outcome(hedge)

    def _others_first(self) -> list[Target]:
        """Servers for the hedge: the user's own is busy, or stuck."""
        own, *others = self._work.order
        return [
            *(target for target in others if target.up),
            own,
            *(target for target in others if not target.up),
        ]

    def _flow_events(self) -> set[asyncio.Future[Any]]:
        """What may make another step possible."""
        flow = self._work.flow
        if flow is None or flow.done:
            return set()
        events: set[asyncio.Future[Any]] = {flow.task}
        if not flow.read.is_set():
            if self._reading is None:
                self._reading = self._work.spawn(flow.read.wait())
            events.add(self._reading)
        return events

    def _result(
        self, candidates: np.ndarray, source: str, scores: Scores | None
    ) -> RankingResult:
        work = self._work
        for span in work.flow.spans if work.flow else ():
            work.recorder.adopt(span)
        values = np.zeros(0, np.float32) if scores is None else scores.values
        return RankingResult(
            candidate_item_ids=candidates,
            click_probability=values,
            path="unranked" if scores is None else scores.path,
            history_length=0 if scores is None else scores.length,
            generation=0 if scores is None else scores.generation,
            cache_hit=scores is not None and scores.path == "cached",
            stages=work.recorder.stages(),
            total_ms=work.recorder.elapsed_ms(),
            request_id=work.request.request_id,
            candidates_from=source,
        )


def _outcome(task: asyncio.Task[Scores | None]) -> Scores | None:
    """What a task found; an error that nobody foresaw is nothing found."""
    try:
        return task.result()
    except Exception:
        _logger.exception("A ranking failed")
        return None


async def _first(waiting: set[asyncio.Future[Any]], until: float) -> None:
    seconds = max(0.0, until - time.monotonic())
    if waiting:
        await asyncio.wait(
            waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
    else:
        await asyncio.sleep(seconds)
