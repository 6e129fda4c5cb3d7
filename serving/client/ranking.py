"""Clients of the ranking service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Generic, TypeVar

from serving.client.base import (
    AsyncClient,
    BaseClient,
    BlockingClient,
    awaited,
)
from serving.client.calls import AsyncTransport, Transport
from serving.client.channels import AsyncGrpcTransport, GrpcTransport
from serving.client.feature_values import Value, Values
from serving.client.ranking_types import (
    AppendEvents,
    Rank,
    RankingRequest,
    RankingResult,
    Stage,
)
from serving.client.ranking_wire import read_rank, write_events, write_request
from serving.client.settings import Retry, Timeouts, Tls
from serving.client.types import Id, IdList, IntegerList
from serving.client.wire_grpc import Method
from serving.wire import ranking_messages as wire

__all__ = [
    "AsyncRankingClient",
    "RankingClient",
    "RankingRequest",
    "RankingResult",
    "Stage",
]

_SLACK_S = 1.0
"""Seconds that a call may take beyond the deadline, for the network."""
_Transport = TypeVar("_Transport")


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
    """Calls the ranking service.

    The client is thread-safe. Close it, or use it as a context manager.

    Args:
        target: `host:port`.
        timeouts: limits in seconds.
        retry: further attempts if the service is unavailable, for rankings and
            for events that were certainly not stored.
        tls: encryption; None is plain text.
        metadata: sent with every call. `repr` hides the values.
        transport: a custom transport instead of gRPC.

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
            request: the user, and the candidates or how many to retrieve.
            timeout: total time in seconds; None applies the deadline of the
                request plus a second for the network, or the client's limits.

        Raises:
            OverloadedError: the service is overloaded.
            CallError: the call failed.
        """
        if timeout is None and request.deadline_ms:
            timeout = request.deadline_ms / 1e3 + _SLACK_S
        return self._run(Rank(request).plan(), timeout)

    def append_events(
        self,
        user_id: Id,
        item_ids: IdList,
        behaviors: Mapping[str, Values] | None = None,
        user: Mapping[str, Value] | None = None,
        times: IntegerList | None = None,
        *,
        timeout: float | None = None,
    ) -> int:
        """Appends behaviors of a user, oldest first, and sets features.

        Features have the names that the service's store declares. Other names
        raise an `InvalidArgumentError` that lists them.

        Args:
            user_id: the user.
            item_ids: (N,), without 0; may be empty if `user` is not.
            behaviors: features of the behaviors, with N values each. Features
                that are not given are missing.
            user: all features of the user; those not given become missing.
                If this is empty, the stored features are kept.
            times: (N,), times of the behaviors in seconds since 1970; None is
                now.
            timeout: total time in seconds; None applies the client's limits.

        Returns:
            The number of appended behaviors.

        Raises:
            RequestError: an argument has a wrong value.
            CallError: the call failed.
        """
        events = AppendEvents(
            user_id, item_ids, behaviors or {}, user or {}, times
        )
        return self._run(events.plan(), timeout)


class AsyncRankingClient(_Settings[Transport | AsyncTransport], AsyncClient):
    """Calls the ranking service from an event loop.

    Arguments, results and errors are those of `RankingClient`; the methods are
    coroutines. Canceling one cancels the call in the service.
    """

    _grpc = AsyncGrpcTransport

    rank = awaited(RankingClient.rank)
    append_events = awaited(RankingClient.append_events)


_METHODS: Mapping[type, Method] = {
    Rank: Method(
        wire.RANK,
        lambda call: write_request(call.request).SerializeToString(),
        wire.RankResponse.FromString,
        read_rank,
    ),
    AppendEvents: Method(
        wire.APPEND,
        lambda call: write_events(call).SerializeToString(),
        wire.AppendEventsResponse.FromString,
        lambda response: int(response.appended),
    ),
}
