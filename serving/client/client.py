"""The client."""

from __future__ import annotations

import random
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Literal, TypeVar, overload

import numpy as np

from serving.client.batches import (
    Limits,
    explain_result,
    group,
    rank_inputs,
    rank_result,
    split,
)
from serving.client.errors import (
    ClientClosedError,
    DeadlineError,
    RequestError,
    ResponseError,
    UnavailableError,
)
from serving.client.matching import (
    MATCHING_MODEL,
    RecommendRequest,
    RecommendResult,
    query_array,
    recommend_inputs,
    recommend_result,
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
    id_array,
)
from serving.client.upserts import (
    UpsertResult,
    joined_result,
    upsert_inputs,
)
from serving.client.wire_grpc import Target

__all__ = ["MuseClient"]

_T = TypeVar("_T")
_R = TypeVar("_R", bound=RankResult)


class MuseClient:
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
        self._target = target
        self._model = Target(model, version, label)
        self._timeouts = timeouts or Timeouts()
        self._retry = retry or Retry()
        self._limits = limits or Limits()
        self._metadata_names = sorted(metadata or {})
        self._closed = False
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
    def rank(self, requests: RankRequest) -> RankResult: ...

    @overload
    def rank(self, requests: Sequence[RankRequest]) -> list[RankResult]: ...

    def rank(
        self, requests: RankRequest | Sequence[RankRequest]
    ) -> RankResult | list[RankResult]:
        """Scores candidates.

        Args:
            requests: one request or several; padding and batching are done
                here.

        Returns:
            A `RankResult` for one request; a list of them, in the same
            order, for several.

        Raises:
            CallError: the call failed.
            ResponseError: the answer does not fit the request.
        """
        return self._rank("rank", requests, rank_result)

    @overload
    def explain(self, requests: RankRequest) -> ExplainResult: ...

    @overload
    def explain(
        self, requests: Sequence[RankRequest]
    ) -> list[ExplainResult]: ...

    def explain(
        self, requests: RankRequest | Sequence[RankRequest]
    ) -> ExplainResult | list[ExplainResult]:
        """Scores candidates, and tells what the scores rest on.

        Args:
            requests: one request or several.

        Returns:
            An `ExplainResult` for one request; a list of them for several.

        Raises:
            CallError: the call failed.
            ResponseError: the answer does not fit the request.
        """
        return self._rank("explain", requests, explain_result)

    def embed(self, item_ids: IntegerList) -> EmbedResult:
        """Looks up the vectors of items.

        Args:
            item_ids: (N,), at least one.

        Raises:
            RequestError: the ids are not whole numbers of 64 bits.
            CallError: the call failed.
        """
        ids = id_array("item_ids", item_ids)
        if ids.size == 0:
            raise RequestError("item_ids", "hold at least one id", [])
        outputs = self.predict("embed", {"item_ids": ids})
        try:
            return EmbedResult(
                embedding=outputs["embedding"], found=outputs["found"]
            )
        except KeyError as error:
            raise ResponseError(f"the answer has no output {error}") from error

    def upsert_items(
        self,
        item_ids: IntegerList,
        embedding: Sequence[Sequence[float]] | np.ndarray,
        category_ids: IntegerList | None = None,
        city_ids: IntegerList | None = None,
        province_ids: IntegerList | None = None,
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

        Raises:
            RequestError: an argument is not as described.
            InvalidArgumentError: the slots left are too few. Many items go
                in several calls; those before are stored.
            SignatureError: the model takes no fresh items.
            CallError: the call failed.
        """
        inputs = upsert_inputs(
            item_ids,
            embedding,
            {
                "category_ids": category_ids,
                "city_ids": city_ids,
                "province_ids": province_ids,
            },
        )
        count = len(inputs["item_ids"])
        answers = [
            self.predict(
                "upsert_items",
                {
                    name: values[start : start + self._limits.items]
                    for name, values in inputs.items()
                },
            )
            for start in range(0, count, self._limits.items)
        ]
        return joined_result(answers, count)

    def predict_examples(self, examples: Sequence[bytes]) -> list[RankResult]:
        """Scores serialised `tf.train.Example`s, one per user.

        Args:
            examples: request-grouped Examples; `make_example` makes them.

        Returns:
            A result per Example, without the padding.

        Raises:
            RequestError: an example is not bytes.
            CallError: the call failed.
        """
        for index, example in enumerate(examples):
            if not isinstance(example, bytes):
                raise RequestError(f"examples[{index}]", "be bytes", example)
        if not examples:
            return []
        array = np.empty(len(examples), object)
        array[:] = list(examples)
        outputs = self.predict("serving_default", {"examples": array})
        try:
            scores = outputs["click_probability"]
            ids = outputs["candidate_item_ids"]
        except KeyError as error:
            raise ResponseError(f"the answer has no output {error}") from error
        if ids.shape != scores.shape or len(ids) != len(examples):
            raise ResponseError(
                f"scores {scores.shape} and candidates {ids.shape} do not "
                f"fit {len(examples)} examples"
            )
        return [
            RankResult(row_ids[row_ids != 0], row[row_ids != 0])
            for row_ids, row in zip(ids, scores, strict=True)
        ]

    @overload
    def recommend(
        self, requests: RecommendRequest, *, model: str = MATCHING_MODEL
    ) -> RecommendResult: ...

    @overload
    def recommend(
        self,
        requests: Sequence[RecommendRequest],
        *,
        model: str = MATCHING_MODEL,
    ) -> list[RecommendResult]: ...

    def recommend(
        self,
        requests: RecommendRequest | Sequence[RecommendRequest],
        *,
        model: str = MATCHING_MODEL,
    ) -> RecommendResult | list[RecommendResult]:
        """Finds candidates for users, with the matching model beside this one.

        Args:
            requests: one request or several; padding and batching are done
                here.
            model: name of the matching model, of which the newest version is
                asked.

        Returns:
            A `RecommendResult` for one request; a list of them, in the same
            order, for several.

        Raises:
            NotFoundError: the server has no such model.
            CallError: the call failed.
            ResponseError: the answer does not fit the request.
        """
        if isinstance(requests, RecommendRequest):
            return self._recommend_many([requests], model)[0]
        requests = list(requests)
        for index, request in enumerate(requests):
            if not isinstance(request, RecommendRequest):
                raise RequestError(
                    f"requests[{index}]", "be a RecommendRequest", request
                )
        return self._recommend_many(requests, model)

    def search(
        self,
        query_vectors: np.ndarray,
        *,
        num_candidates: int | None = None,
        model: str = MATCHING_MODEL,
    ) -> list[RecommendResult]:
        """Finds the items most similar to vectors, with the matching model.

        Args:
            query_vectors: floats (N, D) of any length but 0.
            num_candidates: items wanted; None takes all that the model
                returns.
            model: name of the matching model.

        Returns:
            A result per vector; its scores are cosines.

        Raises:
            RequestError: the vectors are not finite numbers of that shape.
            CallError: the call failed.
        """
        queries = query_array(query_vectors)
        outputs = self._predict(
            Target(model), "search", {"query_vector": queries}
        )
        return [
            recommend_result(outputs, row, num_candidates)
            for row in range(len(queries))
        ]

    def predict(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str] = (),
    ) -> dict[str, np.ndarray]:
        """Runs any signature.

        Args:
            signature: its name.
            inputs: name to array, of exactly the declared types.
            outputs: outputs to return; none means all.

        Returns:
            Output name to array; read-only where nothing had to be copied.

        Raises:
            RequestError: an input has no tensor type.
            CallError: the call failed.
        """
        return self._predict(self._model, signature, inputs, outputs)

    def metadata(self) -> ModelMetadata:
        """Asks which signatures the model has.

        Raises:
            CallError: the call failed.
        """
        return self._attempts(
            lambda seconds: self._transport.metadata(self._model, seconds)
        )

    def status(self) -> list[VersionStatus]:
        """Asks for the states of the versions, newest first.

        Raises:
            CallError: the call failed.
        """
        return self._attempts(
            lambda seconds: self._transport.status(self._model, seconds)
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

    def __repr__(self) -> str:
        """Target and model; metadata by name only."""
        parts = [repr(_without_password(self._target))]
        parts.append(f"model={self._model.model!r}")
        if self._model.version is not None:
            parts.append(f"version={self._model.version}")
        if self._model.label is not None:
            parts.append(f"label={self._model.label!r}")
        if self._metadata_names:
            hidden = ", ".join(f"{n!r}: '***'" for n in self._metadata_names)
            parts.append(f"metadata={{{hidden}}}")
        if self._closed:
            parts.append("closed")
        return f"MuseClient({', '.join(parts)})"

    def _rank(
        self,
        signature: str,
        requests: RankRequest | Sequence[RankRequest],
        result: Callable[[RankRequest, Mapping[str, np.ndarray], int], _R],
    ) -> _R | list[_R]:
        if isinstance(requests, RankRequest):
            return self._rank_many(signature, [requests], result)[0]
        requests = list(requests)
        for index, request in enumerate(requests):
            if not isinstance(request, RankRequest):
                raise RequestError(
                    f"requests[{index}]", "be a RankRequest", request
                )
        return self._rank_many(signature, requests, result)

    def _rank_many(
        self,
        signature: str,
        requests: list[RankRequest],
        result: Callable[[RankRequest, Mapping[str, np.ndarray], int], _R],
    ) -> list[_R]:
        results: dict[int, _R] = {}
        for batch in split(requests, self._limits):
            chosen = [requests[index] for index in batch]
            outputs = self.predict(signature, rank_inputs(chosen))
            for row, (index, request) in enumerate(
                zip(batch, chosen, strict=True)
            ):
                results[index] = result(request, outputs, row)
        return [results[index] for index in range(len(requests))]

    def _recommend_many(
        self, requests: list[RecommendRequest], model: str
    ) -> list[RecommendResult]:
        lengths = [len(request.behavior_item_ids) for request in requests]
        results: dict[int, RecommendResult] = {}
        for batch in group(lengths, [0] * len(requests), self._limits):
            chosen = [requests[index] for index in batch]
            outputs = self._predict(
                Target(model), "recommend", recommend_inputs(chosen)
            )
            for row, index in enumerate(batch):
                wanted = requests[index].num_candidates
                results[index] = recommend_result(outputs, row, wanted)
        return [results[index] for index in range(len(requests))]

    def _predict(
        self,
        model: Target,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str] = (),
    ) -> dict[str, np.ndarray]:
        return self._attempts(
            lambda seconds: self._transport.predict(
                model, signature, inputs, outputs, seconds
            )
        )

    def _attempts(self, call: Callable[[float], _T]) -> _T:
        deadline = time.monotonic() + self._timeouts.total
        attempt = 0
        while True:
            if self._closed:
                raise ClientClosedError("the client is closed")
            left = deadline - time.monotonic()
            if left <= 0:
                raise DeadlineError(
                    "DEADLINE_EXCEEDED",
                    f"no answer within {self._timeouts.total:.3g} s in all",
                )
            attempt += 1
            try:
                return call(min(self._timeouts.call, left))
            except UnavailableError:
                pause = self._retry.pause(attempt, random.random())
                if (
                    attempt >= self._retry.attempts
                    or time.monotonic() + pause >= deadline
                ):
                    raise
                time.sleep(pause)


def _without_password(target: str) -> str:
    if "://" not in target:
        return target
    parts = urllib.parse.urlsplit(target)
    if parts.password is None and parts.username is None:
        return target
    host = parts.netloc.rpartition("@")[2]
    return urllib.parse.urlunsplit(parts._replace(netloc=f"***@{host}"))
