"""The rankings that an answer may rest on, each one stage."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from serving.client import CachedRankRequest, RankRequest, ResponseError
from serving.service.histories import NO_HISTORY, History
from serving.service.targets import Target
from serving.service.work import Work

__all__ = ["Rankings", "Scores"]

_TRIES = 3
_PAUSE_S = 0.01


@dataclasses.dataclass(eq=False)
class Scores:
    """What one ranking found.

    Attributes:
        path: how.
        values: float32 (C,).
        length: behaviours that they rest on; -1 where it is not known.
        generation: of the cached history.
    """

    path: str
    values: np.ndarray
    length: int
    generation: int = 0


class Rankings:
    """Ranks the candidates of one request in several ways.

    Each method returns None where it found nothing.

    Args:
        work: the request.
        candidates: int64 (C,).
    """

    def __init__(self, work: Work, candidates: np.ndarray) -> None:
        """Keeps the settings; see the class for the arguments."""
        self._work = work
        self._candidates = candidates

    async def by_path(self, path: str) -> Scores | None:
        """Ranks by a step of the ladder: cached, full or shortened."""
        work = self._work
        if path == "cached":
            return await self._from_cache()
        if work.flow is None or work.flow.history is None:
            return None
        history = work.flow.history
        if path == "shortened":
            history = history.newest(work.config.shortened_length)
        return await self._with_history(path, history, work.order)

    async def without_history(self, order: Sequence[Target]) -> Scores | None:
        """Ranks without a history.

        A server that fails or takes long is not waited for: the next one is
        asked beside it. When all have failed, they are asked again, a few
        times.

        Args:
            order: servers to ask.
        """
        work = self._work
        known = work.flow.history if work.flow is not None else None
        if known is None:
            known = work.newest
        if known is None:
            known = NO_HISTORY
        nothing = dataclasses.replace(NO_HISTORY, profile=known.profile)
        usual = work.usual("rank_no_history", len(self._candidates))
        waiting = collections.deque(order)
        running: set[asyncio.Task[Scores | None]] = set()
        for _ in range(max(_TRIES, len(order))):
            if not waiting:
                await asyncio.sleep(_PAUSE_S)
                waiting.extend(order)
            target = waiting.popleft()
            running.add(
                work.spawn(self._with_history("no_history", nothing, [target]))
            )
            while running:
                done, running = await asyncio.wait(
                    running,
                    timeout=usual if waiting else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in done:
                    found = task.result()
                    if found is not None:
                        for late in running:
                            late.cancel()
                        return found
                if waiting:
                    break
        return None

    async def _with_history(
        self, path: str, history: History, order: Sequence[Target]
    ) -> Scores | None:
        work = self._work
        if work.left <= 0:
            return None

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

        cells = max(1, len(history)) * len(self._candidates)
        values = await work.stage(f"rank_{path}", order, call, cells)
        return None if values is None else Scores(path, values, len(history))

    async def _from_cache(self) -> Scores | None:
        work, flow = self._work, self._work.flow
        if work.left <= 0:
            return None
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
            if not found.cache_hit or (
                flow is not None and flow.outdates(generation)
            ):
                work.parts.metrics.cache.add("miss")
                return None
            work.parts.metrics.cache.add("hit")
            return Scores(
                "cached",
                self._checked(found.click_probability),
                work.parts.prefetches.length(
                    target, work.request.user_id, generation
                ),
                generation,
            )

        count = len(self._candidates)
        size = work.config.shortened_length
        if flow is not None and flow.history is not None:
            size = len(flow.history)
        return await work.stage(
            "rank_cached",
            order,
            call,
            size * count,
            lambda found: (
                size if found.length < 0 else max(1, found.length)
            ) * count,
        )  # fmt: skip

    def _checked(self, values: Any) -> np.ndarray:
        scores = np.asarray(values, np.float32)
        if scores.shape != self._candidates.shape or not (
            np.isfinite(scores).all() and (scores >= 0).all()
            and (scores <= 1).all()
        ):  # fmt: skip
            raise ResponseError("the scores are no probabilities")
        return scores
