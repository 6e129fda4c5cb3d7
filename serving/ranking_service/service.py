"""The ranking service as a library."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import numpy as np

from serving.client import (
    DeadlineError,
    MuseClientError,
    RankRequest,
    RecommendRequest,
    VersionStatus,
)
from serving.client.errors import OverloadedError, RequestError
from serving.client.feature_values import Value, Values
from serving.client.ranking_types import (
    AppendEvents,
    RankingRequest,
    RankingResult,
)
from serving.client.types import CLICK, Id, IdList, IntegerList
from serving.client.user_cache import CACHE_STATISTICS
from serving.ranking_service import features
from serving.ranking_service.admission import Admission, Overloaded
from serving.ranking_service.answer import Answer, Parts
from serving.ranking_service.config import ServiceConfig
from serving.ranking_service.failures import Failure
from serving.ranking_service.histories import StoreBusyError
from serving.ranking_service.item_names import ItemNames
from serving.ranking_service.records import log_request
from serving.ranking_service.schema_checks import Fit
from serving.ranking_service.targets import Target
from serving.ranking_service.traces import Recorder, Traces
from serving.stores import StoreError

_logger = logging.getLogger(__name__)

_POLL_TIMEOUT_S = 2.0
# With half a second between polls, a silent server is noticed in a second.
_STATUS_TIMEOUT_S = 0.4
_NEWS_S = 5.0
_NAMES_S = 2.0
_LEAST_CLOSE_S = 1.0


class RankingService:
    """Ranks candidates for users, always within the deadline.

    It belongs to one event loop. Close it, or use it as a context manager.

    Example:
        >>> async def main():  # doctest: +SKIP
        ...     config = ServiceConfig(store="lmdb:/data/store")
        ...     async with RankingService(config) as service:
        ...         return await service.rank(RankingRequest(user_id=7))
    """

    def __init__(self, config: ServiceConfig) -> None:
        self.config = config
        self._parts = Parts(config)
        self._names = ItemNames(config.item_names)
        self._fit = Fit(config, self._parts.histories, self._parts.declared)
        self.declared = self._parts.declared
        self.metrics = self._parts.metrics
        self._traces = Traces(config.traces)
        self._admission = Admission(config.max_concurrent, config.max_queue)
        self._pollers: list[asyncio.Task[None]] = []
        self._polled: dict[Target, asyncio.Task[None]] = {}
        self._warm: set[str] = set()
        self._store_up = not self._parts.histories.exist
        self._store_failed = False
        self._draining = False

    @property
    def ready(self) -> bool:
        """Whether requests get scores.

        This is the case if a model server answers and has ranked once, the
        store answers and has the model's features, and the service is not
        stopping.
        """
        return (
            any(self._serves(target) for target in self._parts.targets.all)
            and (self._store_up or self.config.ready_without_store)
            and not self._draining
            and not self.problem
        )

    @property
    def problem(self) -> str:
        """Why store, model and settings do not match, in one line."""
        return self._fit.problem

    async def start(self) -> None:
        """Connects to its parts; each model server ranks once."""
        await self._poll_store()  # Models are compared with it.
        await self._poll_names()
        await self._poll_news()
        self._pollers = [
            asyncio.create_task(
                self._keep(poll, max(least, self.config.poll_seconds))
            )
            for poll, least in (
                (self._poll_store, 0.0),
                (self._poll_names, _NAMES_S),
                (self._poll_news, _NEWS_S),
            )
        ]

    async def close(self) -> None:
        """Rejects new requests, waits for those in flight, and stops."""
        self._draining = True
        grace = self.config.drain_seconds
        ends = time.monotonic() + grace
        if not await self._admission.close(grace):
            _logger.warning("Stopped with requests in flight")
        pollers = [*self._pollers, *self._polled.values()]
        for poller in pollers:
            poller.cancel()
        await asyncio.gather(*pollers, return_exceptions=True)
        await self._parts.prefetches.close(max(0.0, ends - time.monotonic()))
        await self._parts.targets.close()
        least = max(_LEAST_CLOSE_S, ends - time.monotonic())
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._parts.histories.close, least)
        await loop.run_in_executor(None, self._traces.close, least)

    async def __aenter__(self) -> RankingService:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def rank(self, request: RankingRequest) -> RankingResult:
        """Ranks candidates for a user.

        A missing history and slow or broken parts are not errors: `path` in
        the answer tells how it was ranked.

        Raises:
            RequestError: there are too many candidates, a text instead of a
                declared number, or a feature that the model does not accept.
            Overloaded: the service is overloaded.
        """
        recorder = Recorder(self._traces.tracer, self.metrics.stages)
        asked, request = request, self._completed(request)
        seconds = request.deadline_ms / 1e3
        # The margin takes at most a tenth of the deadline.
        margin = min(self.config.margin_ms / 1e3, seconds / 10)
        ends = recorder.start + seconds - margin
        queue = min(self.config.max_queue_ms / 1e3, seconds / 2)
        try:
            async with self._admission.place(queue):
                work = Answer(self._parts, request, recorder, ends)
                result = await work.find(lambda: self._admission.queued > 0)
        except Overloaded as error:
            self.metrics.shed.labels(error.reason).inc()
            raise
        except asyncio.CancelledError:
            self.metrics.failed.labels("CANCELLED").inc()
            raise
        if self.declared.has_texts("item"):
            texts: Any = asked.candidate_item_ids
            if result.candidates_from != "request":
                texts = self._names.of(result.candidate_item_ids)
            result = dataclasses.replace(result, candidate_item_ids=texts)
        result = self._ordered(result, request)
        self._count(result, seconds)
        recorder.end(request, result)
        if self.config.log_requests:
            log_request(request, result)
        return result

    async def append_events(
        self,
        user_id: Id,
        item_ids: IdList,
        behaviors: Mapping[str, Values] | None = None,
        user: Mapping[str, Value] | None = None,
        times: IntegerList | None = None,
    ) -> int:
        """Appends behaviors, oldest first, and returns their number.

        Arguments are those of `RankingClient.append_events`. The next request
        uses the new behaviors.

        Raises:
            RequestError: an argument has a wrong value, or there is no store.
            ValueError: the store does not have a feature.
            Overloaded: the service is stopping; nothing was appended.
            StoreError: the store failed.
            asyncio.TimeoutError: the store did not answer in time.
        """
        events = AppendEvents(
            user_id, item_ids, behaviors or {}, user or {}, times
        ).with_numbers(self.declared.declaration)
        if not self._parts.histories.exist:
            raise RequestError("store", "be configured to append events", "")
        if self._draining:
            raise Overloaded("draining", 1)
        try:
            await self._parts.histories.append(events, features.now())
        finally:  # A failed append may still have been stored.
            self._parts.prefetches.forget(int(events.user_id))
        return min(len(events.item_ids), self.config.history_limit)

    def refuses(self, result: RankingResult) -> bool:
        """Whether gRPC and REST return an error for this answer."""
        unranked = result.path == "unranked"
        return unranked and self.config.unranked == "error"

    def count_failure(self, failure: Failure) -> None:
        """Counts a failure that was returned instead of an answer."""
        if not failure.counted:
            self.metrics.failed.labels(failure.code).inc()

    def metrics_page(self) -> str:
        """Returns all metrics in the text format of Prometheus."""
        self.metrics.in_flight.set(self._admission.inside)
        self.metrics.queued.set(self._admission.queued)
        self.metrics.background.set(self._parts.prefetches.background)
        for target in self._parts.targets.all:
            self.metrics.targets.labels(target.address).set(
                self._serves(target)
            )
        if self._parts.histories.exist:
            self.metrics.store.set(self._store_up)
        self.metrics.ready.set(self.ready)
        return self.metrics.page()

    def _completed(self, request: RankingRequest) -> RankingRequest:
        config = self.config
        most = config.max_candidates
        given = request.candidate_item_ids
        number = request.num_candidates if given is None else len(given)
        if number > most:
            raise RequestError(
                "num_candidates" if given is None else "candidate_item_ids",
                f"be at most {most}",
                number,
            )
        return dataclasses.replace(
            request.with_numbers(self.declared.declaration),
            deadline_ms=min(
                request.deadline_ms or config.deadline_ms,
                config.max_deadline_ms,
            ),
            request_id=request.request_id or uuid.uuid4().hex[:16],
        )

    def _ordered(
        self, result: RankingResult, request: RankingRequest
    ) -> RankingResult:
        """Returns the answer sorted or reduced as the request asks."""
        if not (request.sort or request.top):
            return result
        values = result.probabilities.get(
            self.config.label or CLICK, result.click_probability
        )
        order = np.argsort(-values, kind="stable")
        if not len(values):  # Unranked.
            order = result.order()
        return result.at(order[: request.top or None])

    def _count(self, result: RankingResult, seconds: float) -> None:
        self.metrics.requests.labels(result.path, result.candidates_from).inc()
        self.metrics.latency.labels(result.path).observe(result.total_ms / 1e3)
        if result.total_ms > 1e3 * seconds:
            self.metrics.late.labels(result.path).inc()

    def _serves(self, target: Target) -> bool:
        return target.up and target.address in self._warm

    async def _warm_up(self, target: Target) -> None:
        """Ranks once without a history, because the first call is slow."""
        candidates = self._parts.popular[: self.config.num_candidates]
        if not len(candidates):
            candidates = np.arange(1, self.config.num_candidates + 1)
        request = RankRequest(user_id=0, candidate_item_ids=candidates)
        async with target.place(time.monotonic() + _POLL_TIMEOUT_S) as left:
            await target.client.rank(request, timeout=left)

    async def _keep(
        self, poll: Callable[[], Awaitable[None]], seconds: float
    ) -> None:
        while not self._draining:  # A poll may swallow a cancellation.
            await asyncio.sleep(seconds)
            try:
                await poll()
            except Exception:  # The next poll may succeed.
                _logger.exception("Polling failed")

    async def _poll_names(self) -> None:
        """Looks up the model servers; new ones are polled from then on."""
        for target in await self._parts.targets.look_up():
            self._polled.pop(target).cancel()
            self._warm.discard(target.address)
            self._fit.forget(target.address)
            self.metrics.forget(target.address)
        new = [t for t in self._parts.targets.all if t not in self._polled]
        await asyncio.gather(*map(self._poll_target, new))
        for target in new:
            poll = functools.partial(self._poll_target, target)
            self._polled[target] = asyncio.create_task(
                self._keep(poll, self.config.poll_seconds)
            )

    async def _poll_target(self, target: Target) -> None:
        """Checks whether a model server serves; a new one must rank first."""
        start = time.monotonic()
        try:
            async with target.place(start + _STATUS_TIMEOUT_S) as left:
                versions = await target.client.status(timeout=left)
            if not any(version.state == "AVAILABLE" for version in versions):
                raise MuseClientError("no version is available")
            await self._compare(target, versions)
            if target.address not in self._warm:
                await self._warm_up(target)
        except MuseClientError as error:
            # A poll may time out because a server is busy answering requests.
            busy = isinstance(error, DeadlineError)
            if isinstance(error, OverloadedError) or (
                busy and target.last_answer > start
            ):
                return
            if target.up:
                _logger.warning("Model server %s: %s", target.address, error)
            target.lost()
            self._warm.discard(target.address)
            return
        target.answered()
        self._warm.add(target.address)

    async def _compare(
        self, target: Target, versions: Sequence[VersionStatus]
    ) -> None:
        """Compares a new version or a new store with the other part."""
        serving = [v.version for v in versions if v.state == "AVAILABLE"]
        if self._fit.is_known(target.address, max(serving)):
            return
        until = time.monotonic() + _POLL_TIMEOUT_S
        async with target.place(until) as left:
            metadata = await target.client.metadata(timeout=left)
        self._fit.compare(target.address, max(serving), metadata)

    async def _poll_store(self) -> None:
        if not self._parts.histories.exist:
            return
        try:
            await self._parts.histories.read(0, 1)
            self._fit.learn()
        except StoreBusyError:
            # A busy store is up if it answers other reads.
            silent = time.monotonic() - self._parts.histories.answered
            if silent > self.config.store_timeout_ms / 1e3:
                self._store_up = False
        except (StoreError, asyncio.TimeoutError) as error:
            if not self._store_failed:
                _logger.warning("The store does not answer: %r", error)
            self._store_up, self._store_failed = False, True
        else:
            self._store_up, self._store_failed = True, False

    async def _poll_news(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(None, self._names.read)
        except (OSError, ValueError, LookupError) as error:
            _logger.warning("%s: %s", self.config.item_names, error)
        serving = [t for t in self._parts.targets.all if self._serves(t)]
        await asyncio.gather(*map(self._poll_cache, serving))
        if self.config.matching_model and serving:
            await self._poll_popular()

    async def _poll_cache(self, target: Target) -> None:
        try:
            async with target.place(time.monotonic() + _POLL_TIMEOUT_S) as left:
                cache = await target.client.user_cache([0], timeout=left)
        except MuseClientError:
            return  # The model has no user cache.
        for name in CACHE_STATISTICS:
            self.metrics.user_cache.labels(target.address, name).set(
                float(getattr(cache, name))
            )

    async def _poll_popular(self) -> None:
        try:
            _, found = await self._parts.targets.call(
                self._parts.targets.order(0),
                lambda target, seconds: target.client.recommend(
                    RecommendRequest([]),
                    model=self.config.matching_model,
                    timeout=seconds,
                ),
                time.monotonic() + _POLL_TIMEOUT_S,
            )
        except MuseClientError:
            return  # Keep the previous items.
        ids = np.asarray(found.candidate_item_ids, np.int64)
        self._parts.popular = ids[ids != 0]
