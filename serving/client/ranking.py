"""Clients of the ranking service."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from serving.client.base import (
    AsyncClient,
    BaseClient,
    BlockingClient,
    awaited,
)
from serving.client.calls import AsyncTransport, Call, Transport
from serving.client.channels import AsyncGrpcTransport, GrpcTransport
from serving.client.errors import (
    CallError,
    RequestError,
    ResponseError,
)
from serving.client.settings import Retry, Timeouts, Tls
from serving.client.types import (
    IntegerList,
    id_array,
    item_array,
    list_features,
    set_checked,
    user_features,
    whole_number,
)
from serving.client.wire_grpc import Method
from serving.wire import ranking_messages as wire

_SLACK_S = 1.0
"""Seconds beyond the deadline that a call may take, for the network."""
_LONGEST_ID = 256
_Transport = TypeVar("_Transport")


@dataclasses.dataclass(frozen=True, eq=False)
class RankingRequest:
    """A user to rank for.

    Attributes:
        user_id: the user.
        candidate_item_ids: items to rank, none of them 0; None asks the
            retrieval model.
        num_candidates: how many to take from it; 0 takes the service's
            default.
        deadline_ms: time until an answer must be there; 0 takes the
            service's default.
        request_id: comes back in the result and stands in the logs; made up
            where empty.
        sort: whether the answer has the best candidate first.
        top: how many of the best to return, sorted; 0 takes all.
        user: features of the user by the names that the model declares, in
            place of those that the service's store keeps, for this request
            alone. With any, the scores do not come from the user cache.

    Raises:
        RequestError: a field is not as described.
    """

    user_id: int
    candidate_item_ids: IntegerList | None = None
    num_candidates: int = 0
    deadline_ms: float = 0.0
    request_id: str = ""
    sort: bool = False
    top: int = 0
    user: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        set_checked(
            self,
            user_id=whole_number(self.user_id),
            user=user_features(self.user),
        )
        if self.candidate_item_ids is not None:
            ids = item_array("candidate_item_ids", self.candidate_item_ids)
            set_checked(self, candidate_item_ids=ids)
        for field in ("num_candidates", "top"):
            if not 0 <= whole_number(getattr(self, field), field) < 2**31:
                raise RequestError(
                    field,
                    "be a whole number from 0 to 2**31 - 1",
                    getattr(self, field),
                )
        if not isinstance(self.sort, bool):
            raise RequestError("sort", "be true or false", self.sort)
        deadline = self.deadline_ms
        if (
            isinstance(deadline, bool)
            or not isinstance(deadline, (int, float))
            or not 0 <= deadline < float("inf")
        ):
            raise RequestError(
                "deadline_ms", "be milliseconds, not negative", deadline
            )
        name = self.request_id
        if not isinstance(name, str) or len(name) > _LONGEST_ID:
            raise RequestError(
                "request_id", f"be text of at most {_LONGEST_ID} letters", name
            )
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise RequestError("request_id", "be valid Unicode", name)


@dataclasses.dataclass(frozen=True)
class Stage:
    """What happened while a request was answered.

    Attributes:
        name: `store_read`, `prefetch`, `matching`, `rank_cached`,
            `rank_full`, `rank_shortened`, `rank_no_history` …
        start_ms: after the request came in.
        duration_ms: how long it took, or was waited for.
        outcome: `ok`, `timeout`, `error`, `skipped`, `miss`, `cancelled`; or
            `running`: it goes on after the answer.
    """

    name: str
    start_ms: float
    duration_ms: float
    outcome: str


@dataclasses.dataclass(frozen=True, eq=False)
class RankingResult:
    """The answer of the ranking service.

    Attributes:
        candidate_item_ids: int64 (C,), as given, or as retrieved; the
            best first where the request wants it.
        click_probability: float32 (C,), in the same order; empty where path
            is `unranked`.
        path: `cached`, `full`, `shortened`, `no_history` or `unranked`.
        history_length: behaviors that the scores rest on; -1 where it is
            not known.
        generation: of the cached history; 0 where none was used.
        cache_hit: whether the scores come from the cached history.
        stages: what happened, by time of start.
        total_ms: from the request's arrival to the answer.
        request_id: the request's.
        candidates_from: `request`, `matching`, or `popular` where that
            had no answer in time.
    """

    candidate_item_ids: np.ndarray
    click_probability: np.ndarray
    path: str
    history_length: int = 0
    generation: int = 0
    cache_hit: bool = False
    stages: tuple[Stage, ...] = ()
    total_ms: float = 0.0
    request_id: str = ""
    candidates_from: str = "request"

    def order(self) -> np.ndarray:
        """Positions of the candidates, best first; unranked ones as given."""
        if not len(self.click_probability):
            return np.arange(len(self.candidate_item_ids))
        return np.argsort(-self.click_probability, kind="stable")


@dataclasses.dataclass(frozen=True)
class Rank(Call[RankingResult]):
    """Ranks candidates for a user."""

    request: RankingRequest

    def may_repeat(self, error: CallError) -> bool:
        """Not if the service had no scores: that took all the time."""
        return not error.message.startswith(wire.UNRANKED)


@dataclasses.dataclass(frozen=True, eq=False)
class AppendEvents(Call[int]):
    """Appends behaviors of a user; answers how many."""

    user_id: int
    item_ids: np.ndarray
    behaviors: Mapping[str, np.ndarray]
    user: Mapping[str, int]

    def may_repeat(self, error: CallError) -> bool:
        """Only if nothing was sent: events sent twice are stored twice."""
        return error.message.startswith(wire.NOT_SENT)


class _Settings(BaseClient, Generic[_Transport]):
    """Settings of both clients; see `RankingClient`."""

    _grpc: ClassVar[Any]

    def __init__(
        self,
        target: str,
        *,
        timeouts: Timeouts | None = None,
        retry: Retry | None = None,
        tls: Tls | None = None,
        metadata: Mapping[str, str] | None = None,
        transport: _Transport | None = None,
    ) -> None:
        super().__init__(target, timeouts, retry, metadata)
        self._transport = transport or self._grpc(
            target, self._timeouts, tls, metadata or {}, _METHODS
        )


class RankingClient(_Settings[Transport], BlockingClient):
    """Asks the ranking service.

    Threads may share a client. Close it, or use it as a context manager.

    Args:
        target: `host:port`.
        timeouts: limits in seconds.
        retry: further attempts at rankings, and at events that were certainly
            not stored, while the service is unavailable.
        tls: encryption; None is plain text.
        metadata: sent with every call. Never shown by `repr`.
        transport: a transport of your own instead of gRPC.

    Raises:
        RequestError: an argument is not as described.
        OSError: a certificate or key cannot be read.

    Example:
        >>> with RankingClient("127.0.0.1:8600") as client:  # doctest: +SKIP
        ...     client.rank(RankingRequest(user_id=7, deadline_ms=200)).path
        'cached'
    """

    _grpc = GrpcTransport

    def rank(
        self, request: RankingRequest, *, timeout: float | None = None
    ) -> RankingResult:
        """Ranks candidates for a user.

        Args:
            request: the user, and candidates or how many to find.
            timeout: seconds for all of it; None takes the deadline of the
                request and a second for the way, or else the client's limits.

        Raises:
            OverloadedError: the service has too much to do.
            CallError: the call failed.
        """
        if timeout is None and request.deadline_ms:
            timeout = request.deadline_ms / 1e3 + _SLACK_S
        return self._run(Rank(request).plan(), timeout)

    def append_events(
        self,
        user_id: int,
        item_ids: IntegerList,
        behaviors: Mapping[str, IntegerList] | None = None,
        user: Mapping[str, int] | None = None,
        *,
        timeout: float | None = None,
    ) -> int:
        """Appends behaviors of a user, oldest first, and sets features.

        Features go by the names that the service's store keeps; other names
        are an `InvalidArgumentError` that lists them.

        Args:
            user_id: the user.
            item_ids: (N,), none of them 0; may be empty where `user` is not.
            behaviors: features of the behaviors, (N,) each; 0 where left out.
            user: features of the user, all of them: those left out become 0.
                Without any they stay as they are.
            timeout: seconds for all of it; None leaves the client's limits.

        Returns:
            How many were appended.

        Raises:
            RequestError: an argument is not as described.
            CallError: the call failed.
        """
        events = check_events(item_ids, behaviors or {}, user or {})
        call = AppendEvents(whole_number(user_id), *events)
        return self._run(call.plan(), timeout)


class AsyncRankingClient(_Settings[Transport | AsyncTransport], AsyncClient):
    """Asks the ranking service from an event loop.

    Arguments, methods, results and errors are those of `RankingClient`; the
    methods are coroutines. Cancelling one cancels the call in the service.
    """

    _grpc = AsyncGrpcTransport

    rank = awaited(RankingClient.rank)
    append_events = awaited(RankingClient.append_events)


def _rank_message(call: Rank) -> bytes:
    fields = dict(vars(call.request))
    if (ids := fields["candidate_item_ids"]) is not None:
        fields["candidate_item_ids"] = ids.tolist()
    message = wire.RankRequest(**fields)
    return bytes(message.SerializeToString())


def read_request(message: Any, deadline_ms: float) -> RankingRequest:
    """Reads a request, with another deadline."""
    fields = {
        field.name: getattr(message, field.name)
        for field in dataclasses.fields(RankingRequest)
    }
    fields["candidate_item_ids"] = list(message.candidate_item_ids) or None
    fields["user"] = dict(message.user)
    return RankingRequest(**{**fields, "deadline_ms": deadline_ms})


def _append_message(call: AppendEvents) -> bytes:
    message = wire.AppendEventsRequest(
        user_id=call.user_id,
        item_ids=call.item_ids.tolist(),
        behaviors=[
            wire.Feature(name=name, values=values.tolist())
            for name, values in call.behaviors.items()
        ],
        user=call.user,
    )
    return bytes(message.SerializeToString())


def check_events(
    item_ids: IntegerList,
    behaviors: Mapping[str, IntegerList],
    user: Mapping[str, int],
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, int]]:
    """Returns the arguments of `append_events` as int64, or `RequestError`."""
    features = user_features(user)
    items = id_array("item_ids", item_ids)
    if len(items) or not features:
        items = item_array("item_ids", items)
    length = ("item_ids", len(items))
    return items, list_features("behaviors", behaviors, length), features


_SAME = (
    *("path", "history_length", "generation", "cache_hit", "total_ms"),
    *("request_id", "candidates_from"),
)
"""Fields of `RankingResult` that are the same in its message."""


def read_rank(message: Any) -> RankingResult:
    """Reads an answer; raises `ResponseError` where its parts do not fit."""
    ids = np.array(message.candidate_item_ids, np.int64)
    scores = np.array(message.click_probability, np.float32)
    if message.path != "unranked" and len(ids) != len(scores):
        raise ResponseError(
            f"{len(scores)} scores do not fit {len(ids)} candidates"
        )
    return RankingResult(
        candidate_item_ids=ids,
        click_probability=scores,
        stages=tuple(
            Stage(s.name, s.start_ms, s.duration_ms, s.outcome)
            for s in message.stages
        ),
        **{name: getattr(message, name) for name in _SAME},
    )


def write_rank(result: RankingResult) -> Any:
    """Writes an answer as a message."""
    return wire.RankResponse(
        candidate_item_ids=result.candidate_item_ids.tolist(),
        click_probability=result.click_probability.tolist(),
        stages=[
            wire.Stage(**dataclasses.asdict(stage)) for stage in result.stages
        ],
        **{name: getattr(result, name) for name in _SAME},
    )


_METHODS: Mapping[type, Method] = {
    Rank: Method(
        wire.RANK, _rank_message, wire.RankResponse.FromString, read_rank
    ),
    AppendEvents: Method(
        wire.APPEND,
        _append_message,
        wire.AppendEventsResponse.FromString,
        lambda response: int(response.appended),
    ),
}
