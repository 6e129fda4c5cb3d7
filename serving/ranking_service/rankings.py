"""The rankings that an answer may rest on, in their fallback order."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import numpy as np

from serving.client import CachedRankRequest, RankRequest, ResponseError
from serving.ranking_service.histories import NO_HISTORY, History
from serving.ranking_service.targets import Target
from serving.ranking_service.work import Work

__all__ = ["Rankings", "Scores"]

_TRIES = 3
_PAUSE_S = 0.01


@dataclasses.dataclass(eq=False)
class Scores:
    """What one ranking found.

    Attributes:
        path: how.
        values: float32 (C,).
        length: behaviors that they rest on; -1 where it is not known.
        generation: of the cached history.
    """

    path: str
    values: np.ndarray
    length: int
    generation: int = 0


class Rankings:
    """Ranks the candidates of one request, by the first path that works."""

    def __init__(self, work: Work, candidates: np.ndarray) -> None:
        self._work = work
        self._candidates = candidates

    async def best(self) -> Scores | None:
        """Tries cached, full, shortened and no history, in this order.

        A path that cannot give anything is left out: without a history in
        hand only the cache may have one, and a history in hand that is not in
        the cache is newer than what the cache may have.
        """
        work = self._work
        history = None if work.flow is None else work.flow.history
        if work.flow is None or (
            work.flow.cached if history else not work.flow.unknown
        ):
            found = await self._from_cache()
            if found is not None:
                return found
        if history:
            later = ["rank_no_history"]
            short = history.newest(work.config.shortened_length)
            shortens = len(short) < len(history)
            if shortens:
                later.append("rank_shortened")
            seconds = work.time_for("rank_full", *later)
            found = await self._with_history("full", history, seconds)
            if found is None and shortens:
                seconds = work.time_for("rank_shortened", "rank_no_history")
                found = await self._with_history("shortened", short, seconds)
            if found is not None:
                return found
        return await self._without_history()

    async def _from_cache(self) -> Scores | None:
        work, flow = self._work, self._work.flow
        order = work.order[:1]
        if flow is not None and flow.target is not None:
            order = [flow.target]

        async def call(target: Target, seconds: float) -> Scores | None:
            request = CachedRankRequest(
                user_id=work.request.user_id,
                candidate_item_ids=self._candidates,
            )
            found = await target.client.rank_cached(request, timeout=seconds)
            generation = int(found.generation)
            hit = found.cache_hit and not (
                flow is not None and flow.outdates(generation)
            )
            work.parts.metrics.cache.labels("hit" if hit else "miss").inc()
            if not hit:
                return None
            return Scores(
                "cached",
                self._checked(found.click_probability),
                work.parts.prefetches.length(
                    target, work.request.user_id, generation
                ),
                generation,
            )

        seconds = work.time_for("rank_cached", "rank_no_history")
        return await work.stage("rank_cached", seconds, order, call)

    async def _without_history(self) -> Scores | None:
        """Asks one server after the other, each a few times.

        Each gets its budget, or its share of the time if that is less; the
        last one gets all that is left.
        """
        work = self._work
        known = work.flow.history if work.flow is not None else None
        if known is None:
            known = work.newest
        if known is None:
            known = NO_HISTORY
        nothing = dataclasses.replace(NO_HISTORY, profile=known.profile)
        order, servers = work.order, len(work.order)
        for number in range(max(_TRIES, servers)):
            if number >= servers:
                await asyncio.sleep(_PAUSE_S)
            target, waiting = order[number % servers], servers - number
            seconds = work.left
            if waiting > 1:
                seconds = min(
                    work.time_for("rank_no_history"), seconds / waiting
                )
            found = await self._with_history(
                "no_history", nothing, seconds, [target]
            )
            if found is not None:
                return found
            if work.left <= 0:
                break
        return None

    async def _with_history(
        self,
        path: str,
        history: History,
        seconds: float,
        order: list[Target] | None = None,
    ) -> Scores | None:
        work = self._work

        async def call(target: Target, seconds: float) -> np.ndarray:
            request = RankRequest(
                user_id=work.request.user_id,
                user_profile=history.profile,
                behavior_item_ids=history.item_ids,
                behavior_category_ids=history.category_ids,
                candidate_item_ids=self._candidates,
            )
            found = await target.client.rank(request, timeout=seconds)
            return self._checked(found.click_probability)

        values = await work.stage(
            f"rank_{path}", seconds, order or work.order, call
        )
        return None if values is None else Scores(path, values, len(history))

    def _checked(self, values: Any) -> np.ndarray:
        scores = np.asarray(values, np.float32)
        if scores.shape != self._candidates.shape or not (
            np.isfinite(scores).all() and (scores >= 0).all()
            and (scores <= 1).all()
        ):  # fmt: skip
            raise ResponseError("the scores are no probabilities")
        return scores
