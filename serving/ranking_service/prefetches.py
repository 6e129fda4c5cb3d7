"""Store read and prefetch of a user, which may outlive their request."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import time
from collections.abc import Iterator

from opentelemetry import trace

from serving.client import (
    DeadlineError,
    InvalidArgumentError,
    MuseClientError,
    PrefetchRequest,
    PrefetchResult,
    SignatureError,
)
from serving.ranking_service.histories import Histories, History
from serving.ranking_service.spans import Recorder
from serving.ranking_service.targets import Target, Targets
from serving.stores import StoreError

__all__ = ["Flow", "Prefetches"]

_logger = logging.getLogger(__name__)
_REMEMBERED = 65_536


class Flow:
    """Store read, then prefetch, of one user.

    Attributes:
        user_id: the user.
        history: None as long as it is not there, or cannot be had.
        unknown: whether the store has no such user.
        recorder: of the request that began it.
        spans: stages so far.
        target: server that holds the history.
        result: what the prefetch answered; None where it failed.
        task: the work.
        waiting: requests that wait for it.
        rivals: whether an older flow of the user may still write.
    """

    def __init__(self, user_id: int, recorder: Recorder, rivals: bool) -> None:
        self.user_id = user_id
        self.rivals = rivals
        self.history: History | None = None
        self.unknown = False
        self.recorder = recorder
        self.spans: list[trace.Span] = []
        self.target: Target | None = None
        self.result: PrefetchResult | None = None
        self.task: asyncio.Task[None]
        self.waiting = 0

    @property
    def done(self) -> bool:
        """Whether nothing more will come."""
        return self.task.done()

    @property
    def cached(self) -> bool:
        """Whether the history is in the model's cache."""
        return self.result is not None and self.result.cached

    def outdates(self, generation: int) -> bool:
        """Whether a generation in the cache may be older than this history.

        Events were appended while an older flow ran: it may write last.
        """
        if not self.rivals:
            return False
        return self.result is None or generation != self.result.generation

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[list[str]]:
        """A stage; its outcome is the last one that is put into the list."""
        outcomes = ["error"]
        span = self.recorder.begin(name)
        self.spans.append(span)
        try:
            yield outcomes
        except asyncio.CancelledError:
            outcomes.append("cancelled")
            raise
        finally:
            self.recorder.finish(span, outcomes[-1])


class Prefetches:
    """All flows that run.

    Requests of one user at the same time share a flow, unless events were
    appended meanwhile. A flow that is late for its request goes on, because
    it helps the next one, as long as there are few of them.
    """

    def __init__(
        self,
        histories: Histories,
        targets: Targets,
        timeout: float,
        max_background: int,
    ) -> None:
        self._histories = histories
        self._targets = targets
        self._timeout = timeout
        self._max_background = max_background
        self._shared: dict[int, Flow] = {}
        self._running: set[Flow] = set()
        self._lengths: collections.OrderedDict[tuple[str, int, int], int] = (
            collections.OrderedDict()
        )

    @property
    def background(self) -> int:
        """Flows without a request."""
        return sum(not flow.waiting for flow in self._running)

    def join(self, user_id: int, recorder: Recorder) -> Flow:
        """The user's flow, a new one where none runs; `leave` it later."""
        flow = self._shared.get(user_id)
        if flow is None:
            rivals = any(f.user_id == user_id for f in self._running)
            flow = Flow(user_id, recorder, rivals)
            flow.task = asyncio.create_task(self._run(flow))
            self._shared[user_id] = flow
            self._running.add(flow)
            flow.task.add_done_callback(lambda _: self._ended(flow))
        flow.waiting += 1
        return flow

    def leave(self, flow: Flow, overloaded: bool) -> None:
        """A request has its answer."""
        flow.waiting -= 1
        if flow.waiting or flow.done:
            return
        if overloaded or self.background > self._max_background:
            flow.task.cancel()
            if self._shared.get(flow.user_id) is flow:
                del self._shared[flow.user_id]  # Nobody may join it now.

    def forget(self, user_id: int) -> None:
        """Events were appended: the next request reads anew."""
        self._shared.pop(user_id, None)

    def length(self, target: Target, user_id: int, generation: int) -> int:
        """How long a cached history is; -1 where it is not known.

        Each server counts its own generations.
        """
        return self._lengths.get((target.address, user_id, generation), -1)

    async def close(self, seconds: float) -> None:
        """Waits for all flows, then cancels them."""
        tasks = [flow.task for flow in self._running]
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, flow: Flow) -> None:
        self._running.discard(flow)
        if self._shared.get(flow.user_id) is flow:
            del self._shared[flow.user_id]
        if not flow.task.cancelled() and flow.task.exception() is not None:
            _logger.error(
                "Prefetch of user %d failed",
                flow.user_id,
                exc_info=flow.task.exception(),
            )

    async def _run(self, flow: Flow) -> None:
        await self._read(flow)
        if flow.history is None:
            return
        with flow.stage("prefetch") as outcomes:
            try:
                flow.target, flow.result = await asyncio.wait_for(
                    self._targets.call(
                        self._targets.order(flow.user_id),
                        lambda target, _: self._prefetch(target, flow),
                        time.monotonic() + self._timeout,
                        prefetch=True,
                    ),
                    self._timeout,
                )
            except (asyncio.TimeoutError, DeadlineError):
                outcomes.append("timeout")
            except MuseClientError as error:
                _logger.warning("Prefetch failed: %s", error)
            else:
                outcomes.append("ok" if flow.cached else "miss")
        if flow.target is not None and flow.result is not None and flow.cached:
            self._remember(flow.target, flow.user_id, flow.result)

    async def _read(self, flow: Flow) -> None:
        with flow.stage("store_read") as outcomes:
            try:
                flow.history = await self._histories.read(flow.user_id)
            except asyncio.TimeoutError:
                outcomes.append("timeout")
            except StoreError as error:
                _logger.warning("Store read failed: %s", error)
            else:
                flow.unknown = flow.history is None
                outcomes.append("miss" if flow.unknown else "ok")

    async def _prefetch(self, target: Target, flow: Flow) -> PrefetchResult:
        history = flow.history
        if history is None:
            raise AssertionError("a prefetch needs a history")
        if history.rows is not None:
            by_rows = PrefetchRequest(
                user_id=flow.user_id,
                user_profile=history.profile,
                behavior_item_ids=None,
                behavior_category_ids=history.category_ids,
                behavior_rows=history.rows,
                table_stamp=history.table_stamp,
            )
            try:
                return await target.client.prefetch(
                    by_rows, timeout=self._timeout
                )
            except (InvalidArgumentError, SignatureError):
                pass  # They are rows of another item table.
        by_ids = PrefetchRequest(
            user_id=flow.user_id,
            user_profile=history.profile,
            behavior_item_ids=history.item_ids,
            behavior_category_ids=history.category_ids,
        )
        return await target.client.prefetch(by_ids, timeout=self._timeout)

    def _remember(
        self, target: Target, user_id: int, result: PrefetchResult
    ) -> None:
        key = (target.address, user_id, int(result.generation))
        self._lengths[key] = int(result.cached_length)
        while len(self._lengths) > _REMEMBERED:
            self._lengths.popitem(last=False)
