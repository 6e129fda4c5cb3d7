"""Store read and prefetch of a user, which may outlive the request."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import time

from opentelemetry import trace

from serving.client import (
    InvalidArgumentError,
    PrefetchRequest,
    PrefetchResult,
    SignatureError,
)
from serving.ranking_service import features
from serving.ranking_service.config import ServiceConfig
from serving.ranking_service.features import Declared, send_declared
from serving.ranking_service.histories import Histories
from serving.ranking_service.targets import Target, Targets
from serving.ranking_service.traces import Recorder
from serving.stores import UserHistory

_REMEMBERED = 65_536


@dataclasses.dataclass(eq=False)
class Flow:
    """The store read and then the prefetch of a user's history."""

    user_id: int
    recorder: Recorder
    # Whether an older flow of the user may still write to the cache.
    overlaps: bool
    # Whether the history is prefetched, rather than only read.
    prefetches: bool
    # The time up to which the ages of behaviors are computed.
    second: int
    # None until it is read, or if it cannot be read.
    history: UserHistory | None = None
    # Whether the store has no such user.
    unknown: bool = False
    spans: list[trace.Span] = dataclasses.field(default_factory=list)
    # The server whose cache has the history.
    target: Target | None = None
    # Result of the prefetch; None if it failed.
    result: PrefetchResult | None = None
    # Number of requests that wait for it.
    waiting: int = 0
    task: asyncio.Task[None] = dataclasses.field(init=False)

    @property
    def done(self) -> bool:
        """Whether the flow has finished."""
        return self.task.done()

    @property
    def cached(self) -> bool:
        """Whether the history is in the model's cache."""
        return self.result is not None and self.result.cached

    def outdates(self, generation: int) -> bool:
        """Whether a generation in the cache may be older than this history.

        If events were appended while an older flow ran, that one may write
        last.
        """
        if not self.overlaps:
            return False
        return self.result is None or generation != self.result.generation


class Prefetches:
    """All running flows.

    Concurrent requests of a user share a flow, unless events were appended in
    between. A flow that is too late for its request continues, because the
    next request can use it, as long as there are few such flows.
    """

    def __init__(
        self,
        config: ServiceConfig,
        histories: Histories,
        targets: Targets,
        declared: Declared,
    ) -> None:
        self._declared = declared
        self._histories = histories
        self._targets = targets
        self._timeout = config.prefetch_timeout_ms / 1e3
        self._max_background = config.max_background
        self._shared: dict[int, Flow] = {}
        self._running: set[Flow] = set()
        self._lengths: collections.OrderedDict[tuple[str, int, int], int] = (
            collections.OrderedDict()
        )

    @property
    def background(self) -> int:
        """Number of flows without a request."""
        return sum(not flow.waiting for flow in self._running)

    def join(
        self, user_id: int, recorder: Recorder, prefetches: bool = True
    ) -> Flow:
        """Returns the user's running flow, or a new one. Call `leave` later.

        A flow without prefetch is never shared.
        """
        flow = self._shared.get(user_id) if prefetches else None
        if flow is None:
            overlaps = any(
                f.user_id == user_id and f.prefetches for f in self._running
            )
            second = features.now()
            flow = Flow(user_id, recorder, overlaps, prefetches, second)
            flow.task = asyncio.create_task(self._run(flow))
            if prefetches:
                self._shared[user_id] = flow
            self._running.add(flow)
            flow.task.add_done_callback(lambda _: self._ended(flow))
        flow.waiting += 1
        return flow

    def leave(self, flow: Flow, overloaded: bool) -> None:
        """Removes a request, which has its answer, from a flow."""
        flow.waiting -= 1
        if flow.waiting or flow.done:
            return
        if overloaded or self.background > self._max_background:
            flow.task.cancel()
            if self._shared.get(flow.user_id) is flow:
                del self._shared[flow.user_id]  # Later requests read again.

    def forget(self, user_id: int) -> None:
        """Makes the next request read again, after events were appended."""
        self._shared.pop(user_id, None)

    def length(self, target: Target, user_id: int, generation: int) -> int:
        """Returns the length of a cached history; -1 if it is unknown.

        Each server counts its own generations.
        """
        return self._lengths.get((target.address, user_id, generation), -1)

    async def close(self, seconds: float) -> None:
        """Waits for all flows, then cancels the remaining ones."""
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

    async def _run(self, flow: Flow) -> None:
        with flow.recorder.stage("store_read") as stage:
            flow.spans.append(stage.span)
            flow.history = await self._histories.read(flow.user_id)
            flow.unknown = flow.history is None
            if flow.unknown:
                stage.outcome = "miss"
        history = flow.history
        if history is None or not flow.prefetches:
            return
        with flow.recorder.stage("prefetch") as stage:
            flow.spans.append(stage.span)
            target, result = await asyncio.wait_for(
                self._targets.call(
                    self._targets.order(flow.user_id, prefetch=True),
                    lambda target, _: self._prefetch(
                        target, history, flow.second
                    ),
                    time.monotonic() + self._timeout,
                    prefetch=True,
                ),
                self._timeout,
            )
            flow.target, flow.result = target, result
            if flow.cached:
                self._remember(target, flow.user_id, result)
            else:
                stage.outcome = "miss"

    async def _prefetch(
        self, target: Target, history: UserHistory, second: int
    ) -> PrefetchResult:
        async def send(request: PrefetchRequest) -> PrefetchResult:
            return await target.client.prefetch(request, timeout=self._timeout)

        by_ids = PrefetchRequest(
            user_id=history.user_id,
            **self._declared.history_fields(history, second),
        )
        if history.rows is not None:
            by_rows = dataclasses.replace(
                by_ids,
                behavior_item_ids=None,
                behavior_rows=history.rows,
                table_stamp=history.table_stamp,
            )
            try:
                return await send_declared(send, by_rows, {})
            except (InvalidArgumentError, SignatureError):
                pass  # The rows belong to another item table.
        return await send_declared(send, by_ids, {})

    def _remember(
        self, target: Target, user_id: int, result: PrefetchResult
    ) -> None:
        key = (target.address, user_id, int(result.generation))
        self._lengths[key] = int(result.cached_length)
        while len(self._lengths) > _REMEMBERED:
            self._lengths.popitem(last=False)
