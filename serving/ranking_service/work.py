"""One request while it is answered: its time and its stages."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import numpy as np

from serving.client import DeadlineError, MuseClientError
from serving.client.ranking import RankingRequest
from serving.ranking_service.config import ServiceConfig
from serving.ranking_service.histories import Histories, History
from serving.ranking_service.metrics import ServiceMetrics
from serving.ranking_service.prefetches import Flow, Prefetches
from serving.ranking_service.spans import Recorder
from serving.ranking_service.targets import Target, Targets

__all__ = ["Parts", "Work"]

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclasses.dataclass
class Parts:
    """What all requests share.

    Attributes:
        config: the settings.
        targets: the model servers.
        histories: the store.
        prefetches: the flows that run.
        metrics: counters.
        popular: candidates where matching has none in time.
    """

    config: ServiceConfig
    targets: Targets
    histories: Histories
    prefetches: Prefetches
    metrics: ServiceMetrics
    popular: np.ndarray


class Work:
    """What belongs to one request.

    Attributes:
        parts: as given.
        config: the settings.
        request: as given.
        recorder: as given.
        flow: read and prefetch of the user's history; None without a store.
        newest: the behaviors that were read for matching, if any.
    """

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
        self.newest: History | None = None
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
        outcome = "cancelled"
        span = self.recorder.begin(name)
        try:
            _, answer = await asyncio.wait_for(
                self.parts.targets.call(order, ask, time.monotonic() + seconds),
                seconds,
            )
            outcome = "miss" if answer is None else "ok"
        except (asyncio.TimeoutError, DeadlineError):
            outcome = "timeout"
            self._silent |= asked
        except MuseClientError as error:
            outcome = "error"
            _logger.debug("%s failed: %s", name, error)
        except Exception:
            outcome = "error"
            _logger.exception("%s failed", name)
        finally:
            self.recorder.finish(span, outcome)
        return answer
