"""Answers one request within its deadline.

The candidates are retrieved while the user's history is read and prefetched
into the user cache. Then the ranking paths are tried in this order, each within
its budget, until one returns scores: cached, full, shortened, no history.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from serving.client import (
    CachedRankRequest,
    CachedRankResult,
    RankRequest,
    RankResult,
    RecommendRequest,
    RequestError,
    ResponseError,
)
from serving.client.ranking import RankingRequest, RankingResult
from serving.client.types import CLICK
from serving.ranking_service import features
from serving.ranking_service.config import ServiceConfig
from serving.ranking_service.features import (
    FIELDS,
    Declared,
    feature_of,
    send_declared,
)
from serving.ranking_service.histories import NO_HISTORY, Histories
from serving.ranking_service.metrics import ServiceMetrics
from serving.ranking_service.prefetches import Flow, Prefetches
from serving.ranking_service.targets import Target, Targets
from serving.ranking_service.traces import Recorder
from serving.stores import UserHistory

_T = TypeVar("_T")
_Request = TypeVar("_Request", RankRequest, CachedRankRequest)
_TRIES = 3
_PAUSE_S = 0.01
_FALLBACKS = ("rank_shortened", "rank_no_history")


class Parts:
    """The parts of the service that all requests share."""

    def __init__(self, config: ServiceConfig) -> None:
        self.config = config
        self.metrics = ServiceMetrics(with_store=bool(config.store))
        self.declared = Declared()
        self.targets = Targets(
            config, self.declared.of_model, self.metrics.moved
        )
        self.histories = Histories(config)
        self.prefetches = Prefetches(
            config, self.histories, self.targets, self.declared
        )
        # Candidates if retrieval does not answer in time.
        self.popular = np.zeros(0, np.int64)


@dataclasses.dataclass(eq=False)
class _Scores:
    """Scores of a path, by label; `length` is -1 if it is unknown."""

    path: str
    values: Mapping[str, np.ndarray]
    length: int
    generation: int = 0


class Answer:
    """Answers one request before `ends`, a time of `time.monotonic`."""

    def __init__(
        self,
        parts: Parts,
        request: RankingRequest,
        recorder: Recorder,
        ends: float,
    ) -> None:
        self._parts = parts
        self._config = parts.config
        self._request = request
        self._user_id = int(request.user_id)
        self._second = features.now()
        # Features of the request are sent even if the model rejects them.
        self._given = {field: getattr(request, field) for field in FIELDS}
        clock = parts.declared.context(self._second)
        self._scoring: dict[str, Any] = {
            "context": {**clock, **request.context},
            "candidates": request.candidates,
        }
        self._recorder = recorder
        # Read and prefetch of the user's history; None without a store.
        self._flow: Flow | None = None
        self._newest: UserHistory | None = None
        self._candidates = np.zeros(0, np.int64)
        self._ends = ends
        self._order = parts.targets.order(self._user_id)
        self._silent: set[Target] = set()
        # Why a path was rejected: no version takes a feature of the request.
        self._refused: RequestError | None = None
        budgets = self._config.stage_budget_ms
        kept = (budgets.rank_shortened + budgets.rank_no_history) / 1e3
        # With a short deadline, at most half of the time is reserved.
        self._kept_share = min(1.0, max(0.0, self._left) / 2 / kept)

    async def find(self, overloaded: Callable[[], bool]) -> RankingResult:
        """Returns the answer before the time is over.

        `overloaded` tells whether a late prefetch must be canceled. Raises
        `RequestError` if the model does not accept a feature of the request.
        """
        prefetches, request = self._parts.prefetches, self._request
        if self._parts.histories.exist:
            # The cache has stored features, not those of the request.
            self._flow = prefetches.join(
                self._user_id, self._recorder, not request.user
            )
        try:
            self._candidates, source = await self._find_candidates()
            scores = None
            if len(self._candidates):
                if self._flow is not None:
                    seconds = self._time_for("prefetch", *_FALLBACKS)
                    await asyncio.wait(
                        {self._flow.task}, timeout=max(0.0, seconds)
                    )
                scores = await self._best_scores()
        finally:
            if self._flow is not None:
                prefetches.leave(self._flow, overloaded())
        for span in self._flow.spans if self._flow else ():
            self._recorder.adopt(span)
        if scores is None and self._refused is not None:
            raise self._refused
        if scores is None:
            scores = _Scores("unranked", {CLICK: np.zeros(0, np.float32)}, 0)
        return RankingResult(
            candidate_item_ids=self._candidates,
            click_probability=scores.values[CLICK],
            probabilities=scores.values,
            path=scores.path,
            history_length=scores.length,
            generation=scores.generation,
            cache_hit=scores.path == "cached",
            stages=self._recorder.stages(),
            total_ms=self._recorder.elapsed_ms(),
            request_id=request.request_id,
            candidates_from=source,
        )

    async def _find_candidates(self) -> tuple[np.ndarray, str]:
        """Returns the items to rank, int64 (C,), and their origin.

        Retrieval may take as long as there is time to rank popular items
        instead.
        """
        given = self._request.candidate_item_ids
        if given is not None:
            return np.asarray(given, np.int64), "request"
        number = self._request.num_candidates or self._config.num_candidates
        popular = self._parts.popular[:number]
        if not self._config.matching_model:
            return popular, "popular"
        kept = 0.0
        if len(popular):
            kept = self._left - self._time_for("matching", *_FALLBACKS)
        behaviors = await self._read_newest()

        async def call(target: Target, seconds: float) -> np.ndarray:
            found = await target.client.recommend(
                RecommendRequest(behaviors.item_ids, number),
                model=self._config.matching_model,
                timeout=seconds,
            )
            ids = np.asarray(found.candidate_item_ids, np.int64)
            return ids[ids != 0]

        found = await self._stage("matching", self._left - kept, call)
        if found is not None and len(found):
            return found, "matching"
        return popular, "popular"

    async def _read_newest(self) -> UserHistory:
        """Reads the behaviors for retrieval."""
        length, name = self._config.matching_length, "store_read_newest"
        histories = self._parts.histories
        if histories.exist and length:
            seconds = self._time_for(name, *_FALLBACKS)
            if seconds <= 0:
                self._recorder.skip(name)
            else:
                with self._recorder.stage(name) as stage:
                    self._newest = await asyncio.wait_for(
                        histories.read(self._user_id, length), seconds
                    )
                    if self._newest is None:
                        stage.outcome = "miss"
        return NO_HISTORY if self._newest is None else self._newest

    async def _best_scores(self) -> _Scores | None:
        """Tries cached, full, shortened and no history, in this order.

        Paths that cannot succeed are skipped. Before the history is read, only
        the cache may have one. A history that was read but is not in the cache
        is newer than any history in the cache. The cache does not know the
        user features of the request.
        """
        flow, found = self._flow, None
        history = None if flow is None else flow.history
        if flow is None or (flow.cached if history else not flow.unknown):
            if not self._request.user:
                found = await self._from_cache()
        if found is None and history:
            short = history.newest(self._config.shortened_length)
            shortens = len(short) < len(history)
            later = _FALLBACKS if shortens else ("rank_no_history",)
            seconds = self._time_for("rank_full", *later)
            found = await self._with_history("full", history, seconds)
            if found is None and shortens:
                seconds = self._time_for("rank_shortened", "rank_no_history")
                found = await self._with_history("shortened", short, seconds)
        return found or await self._without_history()

    async def _from_cache(self) -> _Scores | None:
        flow, user_id = self._flow, self._user_id
        order = self._servers()[:1]
        if flow is not None and flow.target is not None:
            order = [flow.target]

        async def call(target: Target, seconds: float) -> _Scores | None:
            request = CachedRankRequest(
                user_id, self._candidates, **self._scoring
            )

            async def send(request: CachedRankRequest) -> CachedRankResult:
                return await target.client.rank_cached(request, timeout=seconds)

            found = await self._taken(send, request)
            generation = int(found.generation)
            outdated = flow is not None and flow.outdates(generation)
            hit = found.cache_hit and not outdated
            self._parts.metrics.cache.labels("hit" if hit else "miss").inc()
            if not hit:
                return None
            length = self._parts.prefetches.length(target, user_id, generation)
            scores = self._checked(found)
            return _Scores("cached", scores, length, generation)

        seconds = self._time_for("rank_cached", "rank_no_history")
        return await self._stage("rank_cached", seconds, call, order)

    async def _without_history(self) -> _Scores | None:
        """Calls one server after the other, each a few times.

        Each server gets its budget, or its share of the time if that is less;
        the last one gets the remaining time.
        """
        known = self._newest if self._flow is None else self._flow.history
        if known is None:
            known = NO_HISTORY if self._newest is None else self._newest
        nothing = known.newest(0)
        order = self._servers()
        for number in range(max(_TRIES, len(order)) if order else 0):
            if number >= len(order):
                await asyncio.sleep(_PAUSE_S)
            seconds, waiting = self._left, len(order) - number
            if waiting > 1:
                budget = self._time_for("rank_no_history")
                seconds = min(budget, seconds / waiting)
            target = order[number % len(order)]
            found = await self._with_history(
                "no_history", nothing, seconds, [target]
            )
            if found is not None or self._left <= 0:
                return found
        return None

    async def _with_history(
        self,
        path: str,
        history: UserHistory,
        seconds: float,
        order: list[Target] | None = None,
    ) -> _Scores | None:
        second = self._second if self._flow is None else self._flow.second
        fields: dict[str, Any] = self._parts.declared.history_fields(
            history, second
        )
        fields["user"] = {**fields["user"], **self._request.user}

        async def call(target: Target, seconds: float) -> _Scores:
            request = RankRequest(
                user_id=self._user_id,
                candidate_item_ids=self._candidates,
                **fields,
                **self._scoring,
            )

            async def send(request: RankRequest) -> RankResult:
                return await target.client.rank(request, timeout=seconds)

            scores = self._checked(await self._taken(send, request))
            return _Scores(path, scores, len(history))

        return await self._stage(f"rank_{path}", seconds, call, order)

    async def _taken(
        self, send: Callable[[_Request], Awaitable[_T]], request: _Request
    ) -> _T:
        """Sends a request; records which of its features is rejected."""
        try:
            return await send_declared(send, request, self._given)
        except RequestError as error:
            field, name = feature_of(error)
            if name in self._given.get(field, ()):
                self._refused = error
            raise

    def _checked(self, found: RankResult) -> dict[str, np.ndarray]:
        scores = {
            label: np.asarray(values, np.float32)
            for label, values in found.probabilities.items()
        }
        for values in scores.values():
            # NaN fails both comparisons.
            if values.shape != self._candidates.shape or not (
                (values >= 0).all() and (values <= 1).all()
            ):
                raise ResponseError("the scores are not probabilities")
        return scores

    @property
    def _left(self) -> float:
        """Seconds until the end; negative after it."""
        return self._ends - time.monotonic()

    def _servers(self) -> list[Target]:
        """The model servers to call, beginning with the user's own.

        Servers that are down come later, and servers that did not answer this
        request in time come last.
        """
        return sorted(self._order, key=lambda target: target in self._silent)

    def _time_for(self, stage: str, *later: str) -> float:
        """Seconds that a stage may take without using later budgets."""
        budgets = self._config.stage_budget_ms
        kept = sum(getattr(budgets, name) for name in later) / 1e3
        return min(
            getattr(budgets, stage) / 1e3, self._left - kept * self._kept_share
        )

    async def _stage(
        self,
        name: str,
        seconds: float,
        call: Callable[[Target, float], Awaitable[_T | None]],
        order: Sequence[Target] | None = None,
    ) -> _T | None:
        """Runs a call as a stage: with a time limit, a span and a metric.

        Returns None if there was no time, if the call returned None, or if it
        failed for any reason, because another path may succeed.
        """
        if seconds <= 0:
            self._recorder.skip(name)
            return None
        asked: set[Target] = set()

        async def ask(target: Target, left: float) -> _T | None:
            asked.add(target)
            return await call(target, left)

        answer: _T | None = None
        with self._recorder.stage(name) as stage:
            until = time.monotonic() + seconds
            targets = self._parts.targets
            _, answer = await asyncio.wait_for(
                targets.call(order or self._servers(), ask, until), seconds
            )
            if answer is None:
                stage.outcome = "miss"
        if stage.outcome == "timeout":
            self._silent |= asked
        return answer
