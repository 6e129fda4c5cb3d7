"""The blocking client of a model server; `async_client` is derived from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import overload

import numpy as np

from serving.client.base import BlockingClient, ModelClient
from serving.client.batches import EXPLAIN, RANK, embed_plan
from serving.client.calls import (
    GetMetadata,
    GetStatus,
    Predict,
    Target,
    Transport,
)
from serving.client.channels import GrpcTransport
from serving.client.examples import examples_plan
from serving.client.feature_values import Values
from serving.client.matching import (
    MATCHING_MODEL,
    RECOMMEND,
    RecommendRequest,
    RecommendResult,
    search_plan,
)
from serving.client.rest import RestTransport
from serving.client.types import (
    EmbedResult,
    ExplainResult,
    IdList,
    ModelMetadata,
    RankRequest,
    RankResult,
    VersionStatus,
)
from serving.client.upserts import UpsertResult, upsert_plan
from serving.client.user_cache import (
    PREFETCH,
    RANK_CACHED,
    CachedRankRequest,
    CachedRankResult,
    PrefetchRequest,
    PrefetchResult,
    ResolvedItems,
    UserCacheStats,
    resolve_items_plan,
    user_cache_plan,
)


class MuseClient(ModelClient[Transport], BlockingClient):
    """Asks a served MUSE model.

    Threads may share a client. Close it, or use it as a context manager.

    A method that takes requests takes one, or several of any lengths, and
    returns one result, or a list of them in the order of the requests. Every
    method takes `timeout`, seconds for all that it does; None leaves the
    client's limits. Features of requests go by the names that the model
    declares; it is asked for them before the first request that may have any.
    Another name is a `RequestError` that lists them; so is a value of another
    type, and a list that is too long. Nothing is sent then. Besides what their
    descriptions name, all methods raise `CallError` where a call failed, and
    `ResponseError` where an answer does not fit the request.

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
        schema: the declaration of the data that the model was trained on, its
            file, or the name of a preset. With it texts are hashed where it
            says that keys or features are texts; without it, texts are
            numbers in decimal.

    Raises:
        RequestError: an argument is not as described.
        schemas.settings_file.ConfigError: the declaration cannot be read.

    Example:
        >>> request = RankRequest(
        ...     user_id=7,
        ...     candidate_item_ids=[13, 14],
        ...     behavior_item_ids=[11, 12],
        ...     user={"profile_1": 3},
        ...     behaviors={"category": [5, 5]},
        ... )
        >>> with MuseClient("127.0.0.1:8500") as client:  # doctest: +SKIP
        ...     client.rank(request).click_probability
        array([0.12, 0.07], dtype=float32)
    """

    _transports = {"grpc": GrpcTransport, "rest": RestTransport}

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
        """Scores candidates."""
        plan = RANK.plan(self._model, requests, self._limits, self._inputs)
        return self._run(plan, timeout)

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
        """Scores candidates and shows the behaviors behind each score."""
        plan = EXPLAIN.plan(self._model, requests, self._limits, self._inputs)
        return self._run(plan, timeout)

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

        They stay until the version is unloaded, the user is prefetched again,
        or another user takes the slot.

        Raises:
            InvalidArgumentError: the rows belong to another item table; give
                ids instead.
            SignatureError: the model keeps no histories.
        """
        plan = PREFETCH.plan(self._model, requests, self._limits, self._inputs)
        return self._run(plan, timeout)

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

        A miss is not an error: `cache_hit` is False; call `rank` instead.

        Raises:
            SignatureError: the model keeps no histories.
        """
        plan = RANK_CACHED.plan(
            self._model, requests, self._limits, self._inputs
        )
        return self._run(plan, timeout)

    def user_cache(
        self, user_ids: IdList, *, timeout: float | None = None
    ) -> UserCacheStats:
        """Asks what the model keeps, without changing it.

        Args:
            user_ids: (B,), at least one.
            timeout: seconds for all of it; None leaves the client's limits.

        Raises:
            RequestError: the ids are not whole numbers of 64 bits.
            SignatureError: the model keeps no histories.
        """
        declaration = self._inputs.declaration
        plan = user_cache_plan(self._model, user_ids, declaration)
        return self._run(plan, timeout)

    def resolve_items(
        self, item_ids: IdList, *, timeout: float | None = None
    ) -> ResolvedItems:
        """Finds the rows of items, to prefetch by row.

        Args:
            item_ids: (N,), at least one.
            timeout: seconds for all of it; None leaves the client's limits.

        Raises:
            RequestError: the ids are not whole numbers of 64 bits.
            SignatureError: the model keeps no histories.
            ResponseError: the answer does not fit, or another version came in
                between two calls.
        """
        declaration = self._inputs.declaration
        plan = resolve_items_plan(
            self._model, item_ids, self._limits, declaration
        )
        return self._run(plan, timeout)

    def embed(
        self, item_ids: IdList, *, timeout: float | None = None
    ) -> EmbedResult:
        """Looks up the vectors of items.

        Args:
            item_ids: (N,), at least one.
            timeout: seconds for all of it; None leaves the client's limits.

        Raises:
            RequestError: the ids are not whole numbers of 64 bits.
        """
        declaration = self._inputs.declaration
        plan = embed_plan(self._model, item_ids, declaration)
        return self._run(plan, timeout)

    def upsert_items(
        self,
        item_ids: IdList,
        embedding: Sequence[Sequence[float]] | np.ndarray,
        features: Mapping[str, Values] | None = None,
        *,
        timeout: float | None = None,
    ) -> UpsertResult:
        """Adds items to the served version, or replaces them.

        They are ranked, explained and embedded from the answer on, until the
        server stops or loads another version; `FreshItems` keeps them beyond
        that. An item that is stored already takes no slot, so a call may be
        repeated. If an id is given twice, the last one is stored.

        Args:
            item_ids: (N,), at least one, none of them 0.
            embedding: (N, D), of any length: it is scaled to 1.
            features: a value, or a list of them, for each item, by declared
                name; one that is left out is missing.
            timeout: seconds for all of it; None leaves the client's limits.

        Raises:
            RequestError: an argument is not as described.
            InvalidArgumentError: the slots left are too few. Many items go
                in several calls; those before are stored.
            SignatureError: the model takes no fresh items.
        """
        plan = upsert_plan(
            self._inputs, item_ids, embedding, features or {}, self._limits
        )
        return self._run(plan, timeout)

    def predict_examples(
        self, examples: Sequence[bytes], *, timeout: float | None = None
    ) -> list[RankResult]:
        """Scores serialized `tf.train.Example`s, one per user.

        Args:
            examples: request-grouped Examples; `make_example` makes them.
            timeout: seconds for all of it; None leaves the client's limits.

        Returns:
            A result per Example, without the padding.

        Raises:
            RequestError: an example is not bytes.
        """
        return self._run(examples_plan(self._model, examples), timeout)

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
        """Finds candidates for users, with the retrieval model beside this one.

        Args:
            requests: one or several, of any lengths.
            model: name of the retrieval model; its newest version is asked.
            timeout: seconds for all of it; None leaves the client's limits.

        Raises:
            NotFoundError: the server has no such model.
        """
        plan = RECOMMEND.plan(
            Target(model), requests, self._limits, self._inputs
        )
        return self._run(plan, timeout)

    def search(
        self,
        query_vectors: np.ndarray,
        *,
        num_candidates: int | None = None,
        model: str = MATCHING_MODEL,
        timeout: float | None = None,
    ) -> list[RecommendResult]:
        """Finds the items most similar to vectors, with the retrieval model.

        Args:
            query_vectors: floats (N, D) of any length but 0.
            num_candidates: items wanted; None takes all that the model
                returns.
            model: name of the retrieval model.
            timeout: seconds for all of it; None leaves the client's limits.

        Returns:
            A result per vector; its scores are cosines.

        Raises:
            RequestError: the vectors are not finite numbers of that shape.
        """
        plan = search_plan(Target(model), query_vectors, num_candidates)
        return self._run(plan, timeout)

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
        """
        call = Predict(self._model, signature, inputs, outputs)
        return self._run(call.plan(), timeout)

    def metadata(self, *, timeout: float | None = None) -> ModelMetadata:
        """Asks which signatures the model has."""
        return self._run(GetMetadata(self._model).plan(), timeout)

    def status(self, *, timeout: float | None = None) -> list[VersionStatus]:
        """Asks for the states of the versions, newest first."""
        return self._run(GetStatus(self._model).plan(), timeout)
