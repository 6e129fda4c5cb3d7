"""The client that waits."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, TypeVar, overload

import numpy as np

from serving.client import plans
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
from serving.client.transports import GrpcTransport, RestTransport, Transport
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

__all__ = ["MuseClient"]

_T = TypeVar("_T")


class MuseClient(ClientBase):
    """Asks a served MUSE model.

    Threads may share a client. Close it, or use it as a context manager.

    Args:
        target: `host:port`; for REST a URL as well.
        transport: `grpc` (faster) or `rest`, or a transport of your own.
        model: name of the model.
        version: a certain version, else the newest.
        label: the version that this label names.
        timeouts: limits in seconds.
        retry: further attempts when the server is unavailable.
        tls: encryption; None is plain text.
        metadata: sent with every call: gRPC metadata or HTTP headers, for
            example `{"authorization": "Bearer …"}`. Never shown by `repr`.
        limits: how many requests share a call.

    Raises:
        RequestError: an argument is not as described.

    Example:
        >>> request = RankRequest(
        ...     user_id=7,
        ...     user_profile=[1, 2, 0, 0, 3],
        ...     behavior_item_ids=[11, 12],
        ...     behavior_category_ids=[5, 5],
        ...     candidate_item_ids=[13, 14],
        ... )
        >>> with MuseClient("127.0.0.1:8500") as client:  # doctest: +SKIP
        ...     client.rank(request).click_probability
        array([0.12, 0.07], dtype=float32)
    """

    def __init__(
        self,
        target: str,
        transport: Literal["grpc", "rest"] | Transport = "grpc",
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
            self._transport: Transport = GrpcTransport(
                target, self._timeouts, tls, metadata or {}
            )
        elif transport == "rest":
            self._transport = RestTransport(
                target, self._timeouts, tls, metadata or {}
            )
        elif isinstance(transport, str):
            raise RequestError("transport", "be 'grpc' or 'rest'", transport)
        else:
            self._transport = transport

    @overload
    def rank(
        self, requests: RankRequest, *, timeout: float | None = None
    ) -> RankResult: ...

    @overload
    def rank(
        self, requests: Sequence[RankRequest], *, timeout: float | None = None
    ) -> list[RankResult]: ...

    def rank(
        self,
        requests: RankRequest | Sequence[RankRequest],
        *,
        timeout: float | None = None,
    ) -> RankResult | list[RankResult]:
        """Scores candidates.

        Args:
            requests: one request or several; padding and batching are done
                here.
            timeout: seconds for all of it; None leaves the client's limits.

        Returns:
            A `RankResult` for one request; a list of them, in the same
            order, for several.

        Raises:
            CallError: the call failed.
            ResponseError: the answer does not fit the request.
        """
        return self._run(
            plans.rank(self._model, requests, self._limits),
            timeout,
        )

    @overload
    def explain(
        self, requests: RankRequest, *, timeout: float | None = None
    ) -> ExplainResult: ...

    @overload
    def explain(
        self, requests: Sequence[RankRequest], *, timeout: float | None = None
    ) -> list[ExplainResult]: ...

    def explain(
        self,
        requests: RankRequest | Sequence[RankRequest],
        *,
        timeout: float | None = None,
    ) -> ExplainResult | list[ExplainResult]:
        """Scores candidates, and tells what the scores rest on.

        Args:
            requests: one request or several.
            timeout: seconds for all of it; None leaves the client's limits.

        Returns:
            An `ExplainResult` for one request; a list of them for several.

        Raises:
            CallError: the call failed.
            ResponseError: the answer does not fit the request.
        """
        return self._run(
            plans.explain(self._model, requests, self._limits),
            timeout,
        )

    @overload
    def prefetch(
        self, requests: PrefetchRequest, *, timeout: float | None = None
    ) -> PrefetchResult: ...

    @overload
    def prefetch(
        self,
        requests: Sequence[PrefetchRequest],
        *,
        timeout: float | None = None,
    ) -> list[PrefetchResult]: ...

    def prefetch(
        self,
        requests: PrefetchRequest | Sequence[PrefetchRequest],
        *,
        timeout: float | None = None,
    ) -> PrefetchResult | list[PrefetchResult]:
        """Puts histories into the model, for `rank_cached`.

        They stay until the version is unloaded, the user is prefetched anew
        or others need the place.

        Args:
            requests: one request or several, by ids or by rows.
            timeout: seconds for all of it; None leaves the client's limits.

        Returns:
            A `PrefetchResult` for one request; a list of them, in the same
            order, for several.

        Raises:
            InvalidArgumentError: the rows belong to another item table; give
                ids instead.
            SignatureError: the model keeps no histories.
            CallError: the call failed.
            ResponseError: the answer does not fit the request.
        """
        return self._run(
            plans.prefetch(self._model, requests, self._limits),
            timeout,
        )

    @overload
    def rank_cached(
        self, requests: CachedRankRequest, *, timeout: float | None = None
    ) -> CachedRankResult: ...

    @overload
    def rank_cached(
        self,
        requests: Sequence[CachedRankRequest],
        *,
        timeout: float | None = None,
    ) -> list[CachedRankResult]: ...

    def rank_cached(
        self,
        requests: CachedRankRequest | Sequence[CachedRankRequest],
        *,
        timeout: float | None = None,
    ) -> CachedRankResult | list[CachedRankResult]:
        """Scores candidates for users whose histories are in the model.

        A miss is no error: `cache_hit` is False, and `rank` gives the scores.

        Args:
            requests: one request or several; padding and batching are done
                here.
            timeout: seconds for all of it; None leaves the client's limits.

        Returns:
            A `CachedRankResult` for one request; a list of them, in the same
            order, for several.

        Raises:
            SignatureError: the model keeps no histories.
            CallError: the call failed.
            ResponseError: the answer does not fit the request.
        """
        return self._run(
            plans.rank_cached(self._model, requests, self._limits),
            timeout,
        )

    def user_cache(
        self, user_ids: IntegerList, *, timeout: float | None = None
    ) -> UserCacheStats:
        """Asks what the model keeps, without changing it.

        Args:
            user_ids: (B,), at least one.
            timeout: seconds for all of it; None leaves the client's limits.

        Raises:
            RequestError: the ids are not whole numbers of 64 bits.
            SignatureError: the model keeps no histories.
            CallError: the call failed.
        """
        return self._run(
            plans.user_cache(self._model, user_ids),
            timeout,
        )

    def resolve_items(
        self, item_ids: IntegerList, *, timeout: float | None = None
    ) -> ResolvedItems:
        """Finds the rows of items, to prefetch by row.

        Args:
            item_ids: (N,), at least one.
            timeout: seconds for all of it; None leaves the client's limits.

        Raises:
            RequestError: the ids are not whole numbers of 64 bits.
            SignatureError: the model keeps no histories.
            CallError: the call failed.
            ResponseError: the answer does not fit, or another version came in
                between two calls.
        """
        return self._run(
            plans.resolve_items(self._model, item_ids, self._limits),
            timeout,
        )

    def embed(
        self, item_ids: IntegerList, *, timeout: float | None = None
    ) -> EmbedResult:
        """Looks up the vectors of items.

        Args:
            item_ids: (N,), at least one.
            timeout: seconds for all of it; None leaves the client's limits.

        Raises:
            RequestError: the ids are not whole numbers of 64 bits.
            CallError: the call failed.
        """
        return self._run(
            plans.embed(self._model, item_ids),
            timeout,
        )

    def upsert_items(
        self,
        item_ids: IntegerList,
        embedding: Sequence[Sequence[float]] | np.ndarray,
        category_ids: IntegerList | None = None,
        city_ids: IntegerList | None = None,
        province_ids: IntegerList | None = None,
        *,
        timeout: float | None = None,
    ) -> UpsertResult:
        """Adds items to the served version, or replaces them.

        They are ranked, explained and embedded from the answer on, until the
        server stops or loads another version; `FreshItems` keeps them beyond
        that. An item that is there just so takes no slot, so a call may be
        repeated. Of equal ids the last counts.

        Args:
            item_ids: (N,), at least one, none of them 0.
            embedding: (N, D), of any length: it is scaled to 1.
            category_ids: (N,), raw; None for unknown.
            city_ids: (N,), raw; None for unknown.
            province_ids: (N,), raw; None for unknown.
            timeout: seconds for all of it; None leaves the client's limits.

        Raises:
            RequestError: an argument is not as described.
            InvalidArgumentError: the slots left are too few. Many items go
                in several calls; those before are stored.
            SignatureError: the model takes no fresh items.
            CallError: the call failed.
        """
        return self._run(
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

    def predict_examples(
        self, examples: Sequence[bytes], *, timeout: float | None = None
    ) -> list[RankResult]:
        """Scores serialised `tf.train.Example`s, one per user.

        Args:
            examples: request-grouped Examples; `make_example` makes them.
            timeout: seconds for all of it; None leaves the client's limits.

        Returns:
            A result per Example, without the padding.

        Raises:
            RequestError: an example is not bytes.
            CallError: the call failed.
        """
        return self._run(
            plans.predict_examples(self._model, examples),
            timeout,
        )

    @overload
    def recommend(
        self,
        requests: RecommendRequest,
        *,
        model: str = MATCHING_MODEL,
        timeout: float | None = None,
    ) -> RecommendResult: ...

    @overload
    def recommend(
        self,
        requests: Sequence[RecommendRequest],
        *,
        model: str = MATCHING_MODEL,
        timeout: float | None = None,
    ) -> list[RecommendResult]: ...

    def recommend(
        self,
        requests: RecommendRequest | Sequence[RecommendRequest],
        *,
        model: str = MATCHING_MODEL,
        timeout: float | None = None,
    ) -> RecommendResult | list[RecommendResult]:
        """Finds candidates for users, with the matching model beside this one.

        Args:
            requests: one request or several; padding and batching are done
                here.
            model: name of the matching model, of which the newest version is
                asked.
            timeout: seconds for all of it; None leaves the client's limits.

        Returns:
            A `RecommendResult` for one request; a list of them, in the same
            order, for several.

        Raises:
            NotFoundError: the server has no such model.
            CallError: the call failed.
            ResponseError: the answer does not fit the request.
        """
        return self._run(
            plans.recommend(Target(model), requests, self._limits),
            timeout,
        )

    def search(
        self,
        query_vectors: np.ndarray,
        *,
        num_candidates: int | None = None,
        model: str = MATCHING_MODEL,
        timeout: float | None = None,
    ) -> list[RecommendResult]:
        """Finds the items most similar to vectors, with the matching model.

        Args:
            query_vectors: floats (N, D) of any length but 0.
            num_candidates: items wanted; None takes all that the model
                returns.
            model: name of the matching model.
            timeout: seconds for all of it; None leaves the client's limits.

        Returns:
            A result per vector; its scores are cosines.

        Raises:
            RequestError: the vectors are not finite numbers of that shape.
            CallError: the call failed.
        """
        return self._run(
            plans.search(Target(model), query_vectors, num_candidates),
            timeout,
        )

    def predict(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str] = (),
        *,
        timeout: float | None = None,
    ) -> dict[str, np.ndarray]:
        """Runs any signature.

        Args:
            signature: its name.
            inputs: name to array, of exactly the declared types.
            outputs: outputs to return; none means all.
            timeout: seconds for all of it; None leaves the client's limits.

        Returns:
            Output name to array; read-only where nothing had to be copied.

        Raises:
            RequestError: an input has no tensor type.
            CallError: the call failed.
        """
        return self._run(
            plans.predict(self._model, signature, inputs, outputs),
            timeout,
        )

    def metadata(self, *, timeout: float | None = None) -> ModelMetadata:
        """Asks which signatures the model has.

        Args:
            timeout: seconds for all of it; None leaves the client's limits.

        Raises:
            CallError: the call failed.
        """
        return self._run(
            plans.metadata(self._model),
            timeout,
        )

    def status(self, *, timeout: float | None = None) -> list[VersionStatus]:
        """Asks for the states of the versions, newest first.

        Args:
            timeout: seconds for all of it; None leaves the client's limits.

        Raises:
            CallError: the call failed.
        """
        return self._run(
            plans.status(self._model),
            timeout,
        )

    def close(self) -> None:
        """Closes the connections. Closing again does nothing."""
        if not self._closed:
            self._closed = True
            self._transport.close()

    def __enter__(self) -> MuseClient:
        """The client itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes the client."""
        self.close()

    def _run(self, plan: plans.Plan[_T], timeout: float | None) -> _T:
        budget = Budget(timeout)
        try:
            call = next(plan)
            while True:
                call = plan.send(self._call(call, self._attempts(budget)))
        except StopIteration as done:
            result: _T = done.value
            return result

    def _call(self, call: plans.Call, attempts: Attempts) -> Any:
        while True:
            self._check_open()
            seconds = attempts.seconds()
            try:
                return call(self._transport, seconds)
            except CallError as error:
                time.sleep(attempts.pause(error))
