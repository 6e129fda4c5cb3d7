"""The client for event loops."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, TypeVar, overload

import numpy as np

from serving.client import plans
from serving.client.async_transports import (
    AsyncGrpcTransport,
    AsyncRestTransport,
    AsyncTransport,
)
from serving.client.attempts import Attempts, Budget
from serving.client.batches import Limits
from serving.client.connection import ClientBase
from serving.client.errors import CallError, RequestError
from serving.client.matching import (
    MATCHING_MODEL,
    RecommendRequest,
    RecommendResult,
)
from serving.client.settings import Retry, Timeouts, Tls
from serving.client.types import (
    EmbedResult,
    ExplainResult,
    IntegerList,
    ModelMetadata,
    RankRequest,
    RankResult,
    VersionStatus,
)
from serving.client.upserts import UpsertResult
from serving.client.user_cache import (
    CachedRankRequest,
    CachedRankResult,
    PrefetchRequest,
    PrefetchResult,
    ResolvedItems,
    UserCacheStats,
)
from serving.client.wire_grpc import Target

__all__ = ["AsyncMuseClient"]

_T = TypeVar("_T")


class AsyncMuseClient(ClientBase):
    """Asks a served MUSE model without blocking the event loop.

    Every method is that of `MuseClient`, as a coroutine, with the same
    arguments, results and errors. Cancelling one by gRPC cancels the call at
    the server; by REST the calls run in threads, and what was sent runs on.
    A client belongs to one event loop. Close it, or use it with `async with`.

    Args:
        target: `host:port`; for REST a URL as well.
        transport: `grpc` (faster) or `rest`, or a transport of your own.
        model: name of the model.
        version: a certain version, else the newest.
        label: the version that this label names.
        timeouts: limits in seconds.
        retry: further attempts when the server is unavailable.
        tls: encryption; None is plain text.
        metadata: sent with every call: gRPC metadata or HTTP headers. Never
            shown by `repr`.
        limits: how many requests share a call.

    Raises:
        RequestError: an argument is not as described.

    Example:
        >>> async def clicks(request):  # doctest: +SKIP
        ...     async with AsyncMuseClient("127.0.0.1:8500") as client:
        ...         result = await client.rank(request, timeout=0.05)
        ...     return result.click_probability
    """

    def __init__(
        self,
        target: str,
        transport: Literal["grpc", "rest"] | AsyncTransport = "grpc",
        model: str = "muse",
        *,
        version: int | None = None,
        label: str | None = None,
        timeouts: Timeouts | None = None,
        retry: Retry | None = None,
        tls: Tls | None = None,
        metadata: Mapping[str, str] | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Keeps the settings; see the class for the arguments."""
        super().__init__(
            target,
            Target(model, version, label),
            timeouts,
            retry,
            metadata,
            limits,
        )
        if transport == "grpc":
            self._transport: AsyncTransport = AsyncGrpcTransport(
                target, self._timeouts, tls, metadata or {}
            )
        elif transport == "rest":
            self._transport = AsyncRestTransport(
                target, self._timeouts, tls, metadata or {}
            )
        elif isinstance(transport, str):
            raise RequestError("transport", "be 'grpc' or 'rest'", transport)
        else:
            self._transport = transport

    @overload
    async def rank(
        self, requests: RankRequest, *, timeout: float | None = None
    ) -> RankResult: ...

    @overload
    async def rank(
        self, requests: Sequence[RankRequest], *, timeout: float | None = None
    ) -> list[RankResult]: ...

    async def rank(
        self,
        requests: RankRequest | Sequence[RankRequest],
        *,
        timeout: float | None = None,
    ) -> RankResult | list[RankResult]:
        """As `MuseClient.rank`, awaited."""
        return await self._run(
            plans.rank(self._model, requests, self._limits),
            timeout,
        )

    @overload
    async def explain(
        self, requests: RankRequest, *, timeout: float | None = None
    ) -> ExplainResult: ...

    @overload
    async def explain(
        self, requests: Sequence[RankRequest], *, timeout: float | None = None
    ) -> list[ExplainResult]: ...

    async def explain(
        self,
        requests: RankRequest | Sequence[RankRequest],
        *,
        timeout: float | None = None,
    ) -> ExplainResult | list[ExplainResult]:
        """As `MuseClient.explain`, awaited."""
        return await self._run(
            plans.explain(self._model, requests, self._limits),
            timeout,
        )

    @overload
    async def prefetch(
        self, requests: PrefetchRequest, *, timeout: float | None = None
    ) -> PrefetchResult: ...

    @overload
    async def prefetch(
        self,
        requests: Sequence[PrefetchRequest],
        *,
        timeout: float | None = None,
    ) -> list[PrefetchResult]: ...

    async def prefetch(
        self,
        requests: PrefetchRequest | Sequence[PrefetchRequest],
        *,
        timeout: float | None = None,
    ) -> PrefetchResult | list[PrefetchResult]:
        """As `MuseClient.prefetch`, awaited."""
        return await self._run(
            plans.prefetch(self._model, requests, self._limits),
            timeout,
        )

    @overload
    async def rank_cached(
        self, requests: CachedRankRequest, *, timeout: float | None = None
    ) -> CachedRankResult: ...

    @overload
    async def rank_cached(
        self,
        requests: Sequence[CachedRankRequest],
        *,
        timeout: float | None = None,
    ) -> list[CachedRankResult]: ...

    async def rank_cached(
        self,
        requests: CachedRankRequest | Sequence[CachedRankRequest],
        *,
        timeout: float | None = None,
    ) -> CachedRankResult | list[CachedRankResult]:
        """As `MuseClient.rank_cached`, awaited."""
        return await self._run(
            plans.rank_cached(self._model, requests, self._limits),
            timeout,
        )

    async def user_cache(
        self, user_ids: IntegerList, *, timeout: float | None = None
    ) -> UserCacheStats:
        """As `MuseClient.user_cache`, awaited."""
        return await self._run(
            plans.user_cache(self._model, user_ids),
            timeout,
        )

    async def resolve_items(
        self, item_ids: IntegerList, *, timeout: float | None = None
    ) -> ResolvedItems:
        """As `MuseClient.resolve_items`, awaited."""
        return await self._run(
            plans.resolve_items(self._model, item_ids, self._limits),
            timeout,
        )

    async def embed(
        self, item_ids: IntegerList, *, timeout: float | None = None
    ) -> EmbedResult:
        """As `MuseClient.embed`, awaited."""
        return await self._run(
            plans.embed(self._model, item_ids),
            timeout,
        )

    async def upsert_items(
        self,
        item_ids: IntegerList,
        embedding: Sequence[Sequence[float]] | np.ndarray,
        category_ids: IntegerList | None = None,
        city_ids: IntegerList | None = None,
        province_ids: IntegerList | None = None,
        *,
        timeout: float | None = None,
    ) -> UpsertResult:
        """As `MuseClient.upsert_items`, awaited."""
        return await self._run(
            plans.upsert_items(
                self._model,
                item_ids,
                embedding,
                {
                    "category_ids": category_ids,
                    "city_ids": city_ids,
                    "province_ids": province_ids,
                },
                self._limits,
            ),
            timeout,
        )

    async def predict_examples(
        self, examples: Sequence[bytes], *, timeout: float | None = None
    ) -> list[RankResult]:
        """As `MuseClient.predict_examples`, awaited."""
        return await self._run(
            plans.predict_examples(self._model, examples),
            timeout,
        )

    @overload
    async def recommend(
        self,
        requests: RecommendRequest,
        *,
        model: str = MATCHING_MODEL,
        timeout: float | None = None,
    ) -> RecommendResult: ...

    @overload
    async def recommend(
        self,
        requests: Sequence[RecommendRequest],
        *,
        model: str = MATCHING_MODEL,
        timeout: float | None = None,
    ) -> list[RecommendResult]: ...

    async def recommend(
        self,
        requests: RecommendRequest | Sequence[RecommendRequest],
        *,
        model: str = MATCHING_MODEL,
        timeout: float | None = None,
    ) -> RecommendResult | list[RecommendResult]:
        """As `MuseClient.recommend`, awaited."""
        return await self._run(
            plans.recommend(Target(model), requests, self._limits),
            timeout,
        )

    async def search(
        self,
        query_vectors: np.ndarray,
        *,
        num_candidates: int | None = None,
        model: str = MATCHING_MODEL,
        timeout: float | None = None,
    ) -> list[RecommendResult]:
        """As `MuseClient.search`, awaited."""
        return await self._run(
            plans.search(Target(model), query_vectors, num_candidates),
            timeout,
        )

    async def predict(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str] = (),
        *,
        timeout: float | None = None,
    ) -> dict[str, np.ndarray]:
        """As `MuseClient.predict`, awaited."""
        return await self._run(
            plans.predict(self._model, signature, inputs, outputs),
            timeout,
        )

    async def metadata(self, *, timeout: float | None = None) -> ModelMetadata:
        """As `MuseClient.metadata`, awaited."""
        return await self._run(
            plans.metadata(self._model),
            timeout,
        )

    async def status(
        self, *, timeout: float | None = None
    ) -> list[VersionStatus]:
        """As `MuseClient.status`, awaited."""
        return await self._run(
            plans.status(self._model),
            timeout,
        )

    async def close(self) -> None:
        """Closes the connections. Closing again does nothing."""
        if not self._closed:
            self._closed = True
            await self._transport.close()

    async def __aenter__(self) -> AsyncMuseClient:
        """The client itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes the client."""
        await self.close()

    async def _run(self, plan: plans.Plan[_T], timeout: float | None) -> _T:
        budget = Budget(timeout)
        try:
            call = next(plan)
            while True:
                call = plan.send(await self._call(call, self._attempts(budget)))
        except StopIteration as done:
            result: _T = done.value
            return result

    async def _call(self, call: plans.Call, attempts: Attempts) -> Any:
        while True:
            self._check_open()
            seconds = attempts.seconds()
            try:
                return await call(self._transport, seconds)
            except CallError as error:
                await asyncio.sleep(attempts.pause(error))
