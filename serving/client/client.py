"""The blocking client of a model server."""

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
    """Calls a served MUSE model.

    The client is thread-safe. Close it, or use it as a context manager.

    A method that takes requests accepts one, or several of any lengths. It
    returns one result, or a list in the order of the requests. The `timeout` of
    a method is its total time in seconds; None applies the client's limits.
    Features have the names that the model declares; the client fetches the
    declaration before the first request that may have features. An undeclared
    name, a value of a wrong type and a list that is too long raise a
    `RequestError` before anything is sent. In addition to the errors listed
    below, all methods raise `CallError` if a call failed, and `ResponseError`
    if an answer does not match the request.

    Args:
        target: `host:port`; for REST a URL as well.
        transport: `grpc` (faster), `rest`, or a custom transport.
        model: name of the model.
        version: number of the version; the newest by default.
        label: label of the version, instead of its number.
        timeouts: limits in seconds.
        retry: further attempts if the server is unavailable.
        tls: encryption; None is plain text.
        metadata: sent with every call: gRPC metadata or HTTP headers, for
            example `{"authorization": "Bearer …"}`. `repr` hides the values.
        limits: how many requests share a call.
        schema: the declaration of the data that the model was trained on, its
            file, or the name of a preset. With it, texts are hashed for keys
            and features that are declared as texts. Without it, texts must be
            decimal numbers.

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
        """Scores candidates and returns the behaviors behind each score."""
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
        """Stores histories in the model, for `rank_cached`.

        A history stays until the version is unloaded, the user is prefetched
        again, or another user takes the slot.

        Raises:
            InvalidArgumentError: the rows belong to another item table; send
                ids instead.
            SignatureError: the model has no user cache.
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
        """Scores candidates for users whose histories are cached.

        A miss is no error: `cache_hit` is False. Call `rank` in this case.

        Raises:
            SignatureError: the model has no user cache.
        """
        plan = RANK_CACHED.plan(
            self._model, requests, self._limits, self._inputs
        )
        return self._run(plan, timeout)

    def user_cache(
        self, user_ids: IdList, *, timeout: float | None = None
    ) -> UserCacheStats:
        """Returns the state of the user cache without changing it.

        Args:
            user_ids: (B,), at least one.
            timeout: total time in seconds; None applies the client's limits.

        Raises:
            RequestError: the ids are not whole numbers of 64 bits.
            SignatureError: the model has no user cache.
        """
        declaration = self._inputs.declaration
        plan = user_cache_plan(self._model, user_ids, declaration)
        return self._run(plan, timeout)

    def resolve_items(
        self, item_ids: IdList, *, timeout: float | None = None
    ) -> ResolvedItems:
        """Finds the table rows of items, to prefetch by row.

        Args:
            item_ids: (N,), at least one.
            timeout: total time in seconds; None applies the client's limits.

        Raises:
            RequestError: the ids are not whole numbers of 64 bits.
            SignatureError: the model has no user cache.
            ResponseError: the answer does not match, or the served version
                changed between two calls.
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
            timeout: total time in seconds; None applies the client's limits.

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

        From then on they are ranked, explained and embedded, until the server
        stops or loads another version; `FreshItems` restores them after that.
        An item that is already stored takes no slot, so a call may be repeated.
        If an id is given twice, the last item is stored.

        Args:
            item_ids: (N,), at least one, none of them 0.
            embedding: (N, D), of any length; it is normalized.
            features: by declared name, a value or a list of values for each
                item. Features that are not given are missing.
            timeout: total time in seconds; None applies the client's limits.

        Raises:
            RequestError: an argument is not as described.
            InvalidArgumentError: too few slots are left. Many items are sent
                in several calls; the calls before have stored theirs.
            SignatureError: the model does not accept fresh items.
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
            timeout: total time in seconds; None applies the client's limits.

        Returns:
            One result per Example, without padding.

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
        """Finds candidates for users with the retrieval model of the server.

        Args:
            requests: one or several, of any lengths.
            model: name of the retrieval model; its newest version is used.
            timeout: total time in seconds; None applies the client's limits.

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
        """Finds the items most similar to vectors with the retrieval model.

        Args:
            query_vectors: floats (N, D) of any length except 0.
            num_candidates: number of items; None returns all that the model
                finds.
            model: name of the retrieval model.
            timeout: total time in seconds; None applies the client's limits.

        Returns:
            One result per vector. The scores are cosine similarities.

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
            inputs: name to array, of exactly the declared dtypes.
            outputs: names of outputs to return; all by default.
            timeout: total time in seconds; None applies the client's limits.

        Returns:
            Output name to array, read-only if no copy was needed.

        Raises:
            RequestError: an input's dtype is not a tensor type.
        """
        call = Predict(self._model, signature, inputs, outputs)
        return self._run(call.plan(), timeout)

    def metadata(self, *, timeout: float | None = None) -> ModelMetadata:
        """Returns the signatures of the model."""
        return self._run(GetMetadata(self._model).plan(), timeout)

    def status(self, *, timeout: float | None = None) -> list[VersionStatus]:
        """Returns the states of the versions, newest first."""
        return self._run(GetStatus(self._model).plan(), timeout)
