"""One request while it is answered: its time and its stages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import numpy as np

from serving.client.ranking import RankingRequest
from serving.ranking_service.config import ServiceConfig
from serving.ranking_service.histories import Histories
from serving.ranking_service.metrics import ServiceMetrics
from serving.ranking_service.prefetches import Flow, Prefetches
from serving.ranking_service.targets import Target, Targets
from serving.ranking_service.traces import Recorder
from serving.stores import UserHistory

__all__ = ["Parts", "Work"]

_T = TypeVar("_T")


class Parts:
    """What all requests share."""

    def __init__(self, config: ServiceConfig) -> None:
        self.config = config
        self.metrics = ServiceMetrics(with_store=bool(config.store))
        self.targets = Targets(config)
        self.histories = Histories(config)
        self.prefetches = Prefetches(config, self.histories, self.targets)
        # Candidates where matching has none in time.
        self.popular = np.zeros(0, np.int64)


class Work:
    """What belongs to one request."""

    def __init__(
        self,
        parts: Parts,
        request: RankingRequest,
        recorder: Recorder,
        ends: float,
    ) -> None:
        self.parts = parts
        self.config = parts.config
        self.request = request
        self.recorder = recorder
        self.flow: Flow | None = None
        self.newest: UserHistory | None = None
        self._ends = ends
        self._order = parts.targets.order(request.user_id)
        self._silent: set[Target] = set()
        budgets = self.config.stage_budget_ms
        kept = (budgets.rank_shortened + budgets.rank_no_history) / 1e3
        # A short deadline keeps back half of its time at most.
        self._kept_share = min(1.0, max(0.0, self.left) / 2 / kept)

    @property
    def left(self) -> float:
        """Seconds until the end; negative after it."""
        return self._ends - time.monotonic()

    @property
    def order(self) -> list[Target]:
        """The model servers to ask: the user's own first.

        Those that are down come later, those that kept this request waiting
        come last.
        """
        return sorted(self._order, key=lambda target: target in self._silent)

    def time_for(self, stage: str, *later: str) -> float:
        """Seconds that a stage may take; 0 or less leaves it out."""
        budgets = self.config.stage_budget_ms
        kept = sum(getattr(budgets, name) for name in later) / 1e3
        return min(
            getattr(budgets, stage) / 1e3, self.left - kept * self._kept_share
        )

    async def stage(
        self,
        name: str,
        seconds: float,
        order: Sequence[Target],
        call: Callable[[Target, float], Awaitable[_T | None]],
    ) -> _T | None:
        """Makes a call a stage: bounded, written down and counted."""
        if seconds <= 0:
            self.recorder.skip(name)
            return None
        asked: set[Target] = set()

        async def ask(target: Target, left: float) -> _T | None:
            asked.add(target)
            return await call(target, left)

        answer: _T | None = None
        with self.recorder.stage(name) as stage:
            _, answer = await asyncio.wait_for(
                self.parts.targets.call(order, ask, time.monotonic() + seconds),
                seconds,
            )
            if answer is None:
                stage.outcome = "miss"
        if stage.outcome == "timeout":
            self._silent |= asked
        return answer
