"""One request while it is answered: its time, its tasks and its stages."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import numpy as np

from serving.client import DeadlineError, MuseClientError
from serving.client.ranking import RankingRequest
from serving.service.config import ServiceConfig
from serving.service.histories import Histories, History
from serving.service.latencies import Latencies
from serving.service.metrics import ServiceMetrics
from serving.service.prefetches import Flow, Prefetches
from serving.service.spans import Recorder, Span
from serving.service.targets import Target, Targets

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


class Work:
    """What belongs to one request.

    Args:
        parts: what all requests share.
        request: what is asked.
        recorder: collects the stages.
        ends: when the answer must be there, by `time.monotonic`.

    Attributes:
        parts: as given.
        config: the settings.
        request: as given.
        recorder: as given.
        ends: as given.
        order: the model servers, the user's own first, those down last.
        flow: read and prefetch of the user's history; None without a store.
        newest: the behaviours that were read for matching, if any.
    """

    def __init__(
        self,
        parts: Parts,
        request: RankingRequest,
        recorder: Recorder,
        ends: float,
    ) -> None:
        """Keeps the settings; see the class for the arguments."""
        self.parts = parts
        self.config = parts.config
        self.request = request
        self.recorder = recorder
        self.ends = ends
        self.order = parts.targets.order(request.user_id)
        self.flow: Flow | None = None
        self.newest: History | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def left(self) -> float:
        """Seconds until the end; negative after it."""
        return self.ends - time.monotonic()

    def usual(self, stage: str, cells: float) -> float:
        """Seconds that a stage usually takes at most."""
        return self.parts.latencies.estimate(stage, cells)

    def spawn(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Starts a task that ends with the request at the latest."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def end(self) -> None:
        """Cancels what still runs."""
        for task in self._tasks:
            task.cancel()

    async def stage(
        self,
        name: str,
        order: Sequence[Target],
        call: Callable[[Target, float], Awaitable[_T | None]],
        cells: float,
        cells_found: Callable[[_T], float] | None = None,
    ) -> _T | None:
        """Makes a call a stage: written down, counted and learned from.

        Args:
            name: of the stage.
            order: model servers to ask, in this order.
            call: one call, to a server within seconds; None is a miss.
            cells: size of the work.
            cells_found: the size, where the answer tells it better.

        Returns:
            The answer; None when the call failed, whatever the reason:
            there are other paths.
        """
        span = self.recorder.begin(name)
        try:
            _, answer = await self.parts.targets.call(order, call, self.ends)
        except asyncio.CancelledError:
            late = self.left <= 1e-3
            seconds = self.finish(span, "timeout" if late else "cancelled")
            self.parts.latencies.give_up(name, seconds, cells)
            raise
        except DeadlineError:
            seconds = self.finish(span, "timeout")
            self.parts.latencies.give_up(name, seconds, cells)
            return None
        except MuseClientError as error:
            self.finish(span, "error")
            _logger.debug("%s failed: %s", name, error)
            return None
        except Exception:
            self.finish(span, "error")
            _logger.exception("%s failed", name)
            return None
        if answer is None:
            self.finish(span, "miss")
            return None
        seconds = self.finish(span, "ok")
        if cells_found is not None:
            cells = cells_found(answer)
        self.parts.latencies.learn(name, seconds, cells)
        return answer

    def finish(self, span: Span, outcome: str) -> float:
        """Ends a stage and counts it.

        Returns:
            Its duration in seconds.
        """
        seconds = self.recorder.finish(span, outcome)
        self.parts.metrics.stages.observe(seconds, span.name, outcome)
        return seconds
