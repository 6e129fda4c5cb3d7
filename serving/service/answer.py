"""One request, from its arrival to an answer in time.

Two things run side by side. *The ladder* tries the best ranking that still
fits: from the cache, with the full history, with a shortened one. *The hedge*
ranks without a history, early enough that an answer is in hand when the time
is over. Whatever is not needed any more is cancelled.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import numpy as np

from serving.client import (
    CachedRankRequest,
    DeadlineError,
    MuseClientError,
    RankRequest,
    RecommendRequest,
    ResponseError,
)
from serving.client.ranking import RankingRequest, RankingResult
from serving.service.config import ServiceConfig
from serving.service.histories import PROFILE_SIZE, Histories, History
from serving.service.latencies import Latencies
from serving.service.metrics import ServiceMetrics
from serving.service.prefetches import Flow, Prefetches
from serving.service.spans import Recorder, Span
from serving.service.targets import Target, Targets
from serving.stores import StoreError

__all__ = ["Answering", "Parts"]

_logger = logging.getLogger(__name__)

_NOTHING = History(
    profile=np.zeros(PROFILE_SIZE, np.int64),
    item_ids=np.zeros(0, np.int64),
    category_ids=np.zeros(0, np.int64),
)
_HEDGE_TRIES = 3
_HEDGE_PAUSE_S = 0.01


@dataclasses.dataclass
class Parts:
    """What all requests share.

    Attributes:
        config: the settings.
        targets: the model servers.
        histories: the store.
        prefetches: the flows that run.
        latencies: what stages usually take.
        metrics: counters.
        popular: candidates where matching has none in time.
    """

    config: ServiceConfig
    targets: Targets
    histories: Histories
    prefetches: Prefetches
    latencies: Latencies
    metrics: ServiceMetrics
    popular: np.ndarray


@dataclasses.dataclass(eq=False)
class _Scores:
    """What one ranking found.

    Attributes:
        path: how.
        values: float32 (C,).
        length: behaviours that they rest on.
        generation: of the cached history.
    """

    path: str
    values: np.ndarray
    length: int
    generation: int = 0


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
        self._parts = parts
        self._config = parts.config
        self._request = request
        self._recorder = recorder
        self._ends = ends
        self._order = parts.targets.order(request.user_id)
        self._flow: Flow | None = None
        self._adopted = 0
        self._newest: History | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._candidates = np.zeros(0, np.int64)
        self._from = "request"

    async def answer(self, overloaded: Callable[[], bool]) -> RankingResult:
        """Answers, at the latest when the time is over.

        Args:
            overloaded: tells whether a late prefetch must not go on.
        """
        if self._parts.histories.exist:
            self._flow = self._parts.prefetches.join(self._request.user_id)
        try:
            await self._find_candidates()
            scores = None
            if len(self._candidates):
                scores = await self._rank()
            late = time.monotonic() >= self._ends
            self._recorder.cut("timeout" if late else "cancelled")
            return self._result(scores)
        finally:
            for task in self._tasks:
                task.cancel()
            if self._flow is not None:
                self._parts.prefetches.leave(self._flow, overloaded())

    # Candidates

    async def _find_candidates(self) -> None:
        given = self._request.candidate_item_ids
        if given is not None:
            self._candidates = np.asarray(given, np.int64)
            return
        if not self._config.matching_model:
            self._use_popular()
            return
        number = self._request.num_candidates or self._config.num_candidates
        matching = self._spawn(self._match(number))
        # Popular items are ranked instead when matching leaves no time.
        popular = self._parts.popular[:number]
        last = self._ends
        if len(popular):
            last -= self._hedge_seconds(len(popular))
        await asyncio.wait(
            {matching}, timeout=max(0.0, last - time.monotonic())
        )
        found = None
        if matching.done() and not matching.exception():
            found = matching.result()
        if found is None or not len(found):
            matching.cancel()
            self._use_popular()
        else:
            self._candidates, self._from = found, "matching"

    def _use_popular(self) -> None:
        number = self._request.num_candidates or self._config.num_candidates
        self._candidates = self._parts.popular[:number]
        self._from = "popular"

    async def _match(self, number: int) -> np.ndarray | None:
        behaviors = (await self._read_newest()).item_ids
        left = self._ends - time.monotonic()
        if left <= 0:
            self._recorder.skip("matching")
            return None

        async def call(target: Target) -> np.ndarray:
            found = await target.client.recommend(
                RecommendRequest(behaviors, number),
                model=self._config.matching_model,
                timeout=left,
            )
            ids = np.asarray(found.candidate_item_ids, np.int64)
            return ids[ids != 0]

        return await self._stage("matching", self._order, call)

    async def _read_newest(self) -> History:
        """The few behaviours that matching needs."""
        length = self._config.matching_length
        if not self._parts.histories.exist or not length:
            return _NOTHING
        span = self._recorder.begin("store_read_newest")
        share = (self._ends - time.monotonic()) / 4
        try:
            found = await asyncio.wait_for(
                self._parts.histories.read(self._request.user_id, length),
                max(0.0, share),
            )
        except asyncio.TimeoutError:
            self._finish(span, "timeout")
        except StoreError:
            self._finish(span, "error")
        except Exception:
            self._finish(span, "error")
            _logger.exception("Reading the newest behaviors failed")
        except asyncio.CancelledError:
            self._finish(span, "timeout")
            raise
        else:
            self._finish(span, "miss" if found is None else "ok")
            self._newest = found
        return self._newest or _NOTHING

    # Ranking

    async def _rank(self) -> _Scores | None:
        tried: set[str] = set()
        main: asyncio.Task[_Scores | None] | None = None
        hedge: asyncio.Task[_Scores | None] | None = None
        in_hand: _Scores | None = None
        hedge_at = self._ends - self._hedge_seconds(len(self._candidates))
        while True:
            now = time.monotonic()
            if now >= self._ends:
                return in_hand
            wake = self._ends
            waiting: set[asyncio.Future[Any]] = set()
            exhausted = False
            if main is None:
                path, until = self._choose(tried, now)
                if path:
                    tried.add(path)
                    main = self._spawn(self._attempt(path))
                elif until is None:
                    exhausted = True
                else:
                    wake = min(wake, until)
                    waiting |= self._flow_events()
            if hedge is None and (exhausted or now >= hedge_at):
                hedge = self._spawn(self._hedge())
            if hedge is None:
                wake = min(wake, hedge_at)
            if exhausted and in_hand is not None:
                return in_hand
            if exhausted and hedge is not None and hedge.done():
                return in_hand
            waiting |= {t for t in (main, hedge) if t and not t.done()}
            await _first(waiting, wake)
            if main is not None and main.done():
                found = main.result()
                if found is not None:
                    return found
                main = None
            if hedge is not None and hedge.done() and in_hand is None:
                in_hand = hedge.result()

    def _choose(self, tried: set[str], now: float) -> tuple[str, float | None]:
        """The next step of the ladder.

        Returns:
            A path to try now; or until when to wait for the prefetch; or
            neither, when nothing is left but the hedge.
        """
        flow, left = self._flow, self._ends - now
        count = len(self._candidates)
        cheapest = self._usual("rank_no_history", count)
        if "cached" not in tried:
            if flow is None:
                return "cached", None
            if flow.done and flow.unknown:
                return "", None
            cached = self._usual("rank_cached", self._size(flow) * count)
            if not flow.done:
                until = self._ends - cached - cheapest
                patience = self._patience(flow)
                if patience is not None:
                    until = min(until, patience)
                if now < until:
                    return "", until
            useless = flow.done and not flow.cached and flow.history is not None
            late = not flow.done and flow.history is not None
            if (late or useless) and self._fits("full", left):
                tried.add("cached")  # The history in hand is newer.
                self._recorder.skip("rank_cached")
            elif cached <= left or cheapest > left:
                return "cached", None
            else:
                tried.add("cached")
                self._recorder.skip("rank_cached")
        if flow is None:
            return "", None
        if flow.history is None:
            shortest = self._usual(
                "rank_shortened", self._config.shortened_length * count
            )
            until = self._ends - shortest - cheapest
            if flow.read.is_set() or now >= until:
                return "", None
            return "", until
        for path in ("full", "shortened"):
            if path in tried or not self._useful(path):
                continue
            if self._fits(path, left):
                return path, None
            tried.add(path)
            self._recorder.skip(f"rank_{path}")
        return "", None

    def _useful(self, path: str) -> bool:
        history = self._flow and self._flow.history
        if not history:
            return False
        if path == "full":
            return True
        return len(history) > self._config.shortened_length

    def _fits(self, path: str, left: float) -> bool:
        """Whether a path usually ends early enough for the cheapest one."""
        history = self._flow and self._flow.history
        if not history:
            return False
        count = len(self._candidates)
        length = len(history)
        if path == "shortened":
            length = min(length, self._config.shortened_length)
        needed = self._usual(f"rank_{path}", length * count)
        return needed + self._usual("rank_no_history", count) <= left

    def _patience(self, flow: Flow) -> float | None:
        """When a prefetch that runs is not worth waiting for any more."""
        if not flow.spans or flow.spans[-1].name != "prefetch":
            return None
        usual = self._usual("prefetch", self._size(flow))
        size = self._size(flow) * len(self._candidates)
        waited = self._config.patience * usual + self._usual("rank_full", size)
        least = self._config.patience_ms / 1e3
        return flow.spans[-1].start + max(least, waited)

    def _size(self, flow: Flow) -> int:
        if flow.history is not None:
            return len(flow.history)
        return self._config.shortened_length

    def _usual(self, stage: str, cells: float) -> float:
        return self._parts.latencies.estimate(stage, cells)

    def _hedge_seconds(self, count: int) -> float:
        return self._config.hedge * self._usual("rank_no_history", count)

    def _flow_events(self) -> set[asyncio.Future[Any]]:
        flow = self._flow
        if flow is None or flow.done:
            return set()
        events: set[asyncio.Future[Any]] = {flow.task}
        if not flow.read.is_set():
            events.add(self._spawn(flow.read.wait()))
        return events

    async def _attempt(self, path: str) -> _Scores | None:
        if path == "cached":
            return await self._from_cache()
        flow = self._flow
        if flow is None or flow.history is None:
            return None
        history = flow.history
        if path == "shortened":
            history = history.newest(self._config.shortened_length)
        return await self._with_history(path, history, self._order)

    async def _hedge(self) -> _Scores | None:
        # It needs no cache: another server than the one that may be stuck.
        order = self._order[1:] + self._order[:1]
        known = self._flow.history if self._flow is not None else None
        if known is None:
            known = self._newest
        if known is None:
            known = _NOTHING
        nothing = dataclasses.replace(_NOTHING, profile=known.profile)
        for _ in range(_HEDGE_TRIES):
            found = await self._with_history("no_history", nothing, order)
            if found is not None:
                return found
            await asyncio.sleep(_HEDGE_PAUSE_S)
        return None

    async def _with_history(
        self, path: str, history: History, order: list[Target]
    ) -> _Scores | None:
        left = self._ends - time.monotonic()
        if left <= 0:
            return None
        request = RankRequest(
            user_id=self._request.user_id,
            user_profile=history.profile,
            behavior_item_ids=history.item_ids,
            behavior_category_ids=history.category_ids,
            candidate_item_ids=self._candidates,
        )

        async def call(target: Target) -> np.ndarray:
            found = await target.client.rank(request, timeout=left)
            return self._checked(found.click_probability)

        cells = max(1, len(history)) * len(self._candidates)
        values = await self._stage(f"rank_{path}", order, call, cells)
        if values is None:
            return None
        return _Scores(path, values, len(history))

    async def _from_cache(self) -> _Scores | None:
        left = self._ends - time.monotonic()
        if left <= 0:
            return None
        flow = self._flow
        order = self._order[:1]
        if flow is not None and flow.target is not None:
            order = [flow.target]
        request = CachedRankRequest(
            user_id=self._request.user_id,
            candidate_item_ids=self._candidates,
        )

        async def call(target: Target) -> _Scores | None:
            found = await target.client.rank_cached(request, timeout=left)
            if not found.cache_hit:
                return None
            generation = int(found.generation)
            return _Scores(
                "cached",
                self._checked(found.click_probability),
                self._parts.prefetches.length(generation),
                generation,
            )

        size = self._config.shortened_length if flow is None else (
            self._size(flow)
        )  # fmt: skip
        span = self._recorder.begin("rank_cached")
        try:
            _, scores = await self._parts.targets.call(order, call)
        except asyncio.CancelledError:
            self._cut(span, "rank_cached", size * len(self._candidates))
            raise
        except MuseClientError as error:
            self._failed(
                span, "rank_cached", size * len(self._candidates), error
            )
            return None
        except Exception:
            self._finish(span, "error")
            _logger.exception("rank_cached failed")
            return None
        if scores is None:
            self._finish(span, "miss")
            self._parts.metrics.cache.add("miss")
            return None
        seconds = self._finish(span, "ok")
        self._parts.metrics.cache.add("hit")
        if scores.length >= 0:
            size = max(1, scores.length)
        self._parts.latencies.learn(
            "rank_cached", seconds, size * len(self._candidates)
        )
        return scores

    async def _stage(
        self,
        name: str,
        order: list[Target],
        call: Callable[[Target], Awaitable[np.ndarray]],
        cells: float | None = None,
    ) -> np.ndarray | None:
        """Makes a call a stage; None when it failed."""
        if cells is None:
            cells = self._request.num_candidates or self._config.num_candidates
        span = self._recorder.begin(name)
        try:
            _, answer = await self._parts.targets.call(order, call)
        except asyncio.CancelledError:
            self._cut(span, name, cells)
            raise
        except MuseClientError as error:
            self._failed(span, name, cells, error)
            return None
        except Exception:  # Whatever it is, there are other paths.
            self._finish(span, "error")
            _logger.exception("%s failed", name)
            return None
        seconds = self._finish(span, "ok")
        self._parts.latencies.learn(name, seconds, cells)
        return answer

    def _checked(self, values: Any) -> np.ndarray:
        scores = np.asarray(values, np.float32)
        if scores.shape != self._candidates.shape or not (
            np.isfinite(scores).all() and (scores >= 0).all()
            and (scores <= 1).all()
        ):  # fmt: skip
            raise ResponseError("the scores are no probabilities")
        return scores

    # Bookkeeping

    def _cut(self, span: Span, name: str, cells: float) -> None:
        late = time.monotonic() >= self._ends - 1e-3
        seconds = self._finish(span, "timeout" if late else "cancelled")
        self._parts.latencies.give_up(name, seconds, cells)

    def _failed(
        self, span: Span, name: str, cells: float, error: MuseClientError
    ) -> None:
        late = isinstance(error, DeadlineError)
        seconds = self._finish(span, "timeout" if late else "error")
        if late:
            self._parts.latencies.give_up(name, seconds, cells)

    def _finish(self, span: Span, outcome: str) -> float:
        seconds = self._recorder.finish(span, outcome)
        self._parts.metrics.stages.observe(seconds, span.name, outcome)
        return seconds

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _result(self, scores: _Scores | None) -> RankingResult:
        for span in self._flow.spans if self._flow else ():
            self._recorder.adopt(span)
        values = np.zeros(0, np.float32) if scores is None else scores.values
        return RankingResult(
            candidate_item_ids=self._candidates,
            click_probability=values,
            path="unranked" if scores is None else scores.path,
            history_length=0 if scores is None else scores.length,
            generation=0 if scores is None else scores.generation,
            cache_hit=scores is not None and scores.path == "cached",
            stages=self._recorder.stages(),
            total_ms=self._recorder.elapsed_ms(),
            request_id=self._request.request_id,
            candidates_from=self._from,
        )


async def _first(waiting: set[asyncio.Future[Any]], until: float) -> None:
    seconds = max(0.0, until - time.monotonic())
    if waiting:
        await asyncio.wait(
            waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
    else:
        await asyncio.sleep(seconds)
