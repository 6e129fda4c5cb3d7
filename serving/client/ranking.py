"""Clients of the ranking service.

They need what `MuseClient` needs: grpcio, protobuf and numpy.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from serving.client.attempts import Attempts, Budget
from serving.client.channels import Channels, LoopChannels
from serving.client.errors import (
    CallError,
    RequestError,
    ResponseError,
)
from serving.client.settings import Retry, Timeouts, Tls
from serving.client.types import IntegerList, check_candidates, id_array
from serving.wire import ranking_messages as wire

__all__ = [
    "AsyncRankingClient",
    "RankingClient",
    "RankingRequest",
    "RankingResult",
    "Stage",
]

_SLACK_S = 1.0
"""What a call may take beyond its deadline: the way there and back."""
_LONGEST_ID = 256
_INT64 = np.iinfo(np.int64)


@dataclasses.dataclass(frozen=True, eq=False)
class RankingRequest:
    """A user to rank for.

    Attributes:
        user_id: the user.
        candidate_item_ids: items to rank, none of them 0; None asks the
            matching model.
        num_candidates: how many to take from it; 0 takes the service's
            default.
        deadline_ms: time until an answer must be there; 0 takes the
            service's default.
        request_id: comes back in the result and stands in the logs; made up
            where empty.
        sort: whether the answer has the best candidate first.
        top: how many of the best to return, sorted; 0 takes all.

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

    def __post_init__(self) -> None:
        """Checks the values; see the class."""
        object.__setattr__(self, "user_id", _user(self.user_id))
        if self.candidate_item_ids is not None:
            ids = id_array("candidate_item_ids", self.candidate_item_ids)
            check_candidates(ids)
            object.__setattr__(self, "candidate_item_ids", ids)
        for field in ("num_candidates", "top"):
            number = getattr(self, field)
            if (
                isinstance(number, bool)
                or not isinstance(number, (int, np.integer))
                or not 0 <= number < 2**31
            ):
                raise RequestError(
                    field, "be a whole number, not negative", number
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
        candidate_item_ids: int64 (C,), as given, or in matching's order; the
            best first where the request wants it.
        click_probability: float32 (C,), in the same order; empty where path
            is `unranked`.
        path: `cached`, `full`, `shortened`, `no_history` or `unranked`.
        history_length: behaviours that the scores rest on; -1 where it is
            not known.
        generation: of the cached history; 0 where none was used.
        cache_hit: whether the scores come from the cached history.
        stages: what happened, by time of start.
        total_ms: from the request's arrival to the answer.
        request_id: the request's.
        candidates_from: `request`, `matching`, or `popular` where matching
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


_RESPONSES = {
    wire.RANK: wire.RankResponse.FromString,
    wire.APPEND: wire.AppendEventsResponse.FromString,
}


class _Calls:
    """What both clients share: messages in, messages out."""

    _channels_of: Any

    def __init__(
        self,
        target: str,
        *,
        timeout: float = 10.0,
        metadata: Mapping[str, str] | None = None,
        tls: Tls | None = None,
        retry: Retry | None = None,
    ) -> None:
        """Keeps the settings; see the class for the arguments."""
        if not timeout > 0:
            raise RequestError("timeout", "be above 0 seconds", timeout)
        self._channels = self._channels_of(
            target, Timeouts(), tls, metadata or {}, _RESPONSES
        )
        self._timeout = timeout
        self._retry = retry or Retry()

    def _limit(self, request: RankingRequest) -> float:
        if not request.deadline_ms:
            return self._timeout
        return request.deadline_ms / 1e3 + _SLACK_S

    def _attempts(self, seconds: float) -> Attempts:
        return Budget(seconds).attempts(Timeouts(), self._retry)


class RankingClient(_Calls):
    """Asks the ranking service.

    Threads may share a client. Close it, or use it as a context manager.

    Args:
        target: `host:port`.
        timeout: seconds that a call without a deadline may take.
        metadata: sent with every call.
        tls: encryption; None is plain text.
        retry: further attempts at rankings, and at events that were certainly
            not stored, while the service is unavailable.

    Raises:
        RequestError: an argument is not as described.
        OSError: a certificate or key cannot be read.

    Example:
        >>> with RankingClient("127.0.0.1:8600") as client:  # doctest: +SKIP
        ...     client.rank(RankingRequest(user_id=7, deadline_ms=200)).path
        'cached'
    """

    _channels_of = Channels

    def rank(self, request: RankingRequest) -> RankingResult:
        """Ranks candidates for a user.

        Args:
            request: the user, and candidates or how many to find.

        Raises:
            OverloadedError: the service has too much to do.
            CallError: the call failed.
        """
        answer = self._send(
            wire.RANK, rank_message(request), self._limit(request)
        )
        return read_rank(answer)

    def append_events(
        self, user_id: int, item_ids: IntegerList, category_ids: IntegerList
    ) -> int:
        """Appends behaviours of a user, oldest first.

        Args:
            user_id: the user.
            item_ids: (N,), none of them 0.
            category_ids: (N,).

        Returns:
            How many were appended.

        Raises:
            CallError: the call failed.
        """
        message = append_message(user_id, item_ids, category_ids)
        answer = self._send(wire.APPEND, message, self._timeout)
        return int(answer.appended)

    def close(self) -> None:
        """Closes the connection."""
        self._channels.close()

    def __enter__(self) -> RankingClient:
        """The client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the client."""
        self.close()

    def _send(self, path: str, message: Any, seconds: float) -> Any:
        attempts = self._attempts(seconds)
        while True:
            try:
                return self._channels.call(
                    path, message.SerializeToString(), attempts.seconds()
                )
            except CallError as error:
                _check_repeatable(path, error)
                time.sleep(attempts.pause(error))


class AsyncRankingClient(_Calls):
    """Asks the ranking service from an event loop.

    Cancelling a call cancels it in the service as well.

    Args:
        target: `host:port`.
        timeout: seconds that a call without a deadline may take.
        metadata: sent with every call.
        tls: encryption; None is plain text.
        retry: further attempts at rankings, and at events that were certainly
            not stored, while the service is unavailable.

    Raises:
        RequestError: an argument is not as described.
        OSError: a certificate or key cannot be read.
    """

    _channels_of = LoopChannels

    async def rank(self, request: RankingRequest) -> RankingResult:
        """As `RankingClient.rank`."""
        answer = await self._send(
            wire.RANK, rank_message(request), self._limit(request)
        )
        return read_rank(answer)

    async def append_events(
        self, user_id: int, item_ids: IntegerList, category_ids: IntegerList
    ) -> int:
        """As `RankingClient.append_events`."""
        message = append_message(user_id, item_ids, category_ids)
        answer = await self._send(wire.APPEND, message, self._timeout)
        return int(answer.appended)

    async def close(self) -> None:
        """Closes the connection."""
        await self._channels.close()

    async def __aenter__(self) -> AsyncRankingClient:
        """The client itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes the client."""
        await self.close()

    async def _send(self, path: str, message: Any, seconds: float) -> Any:
        attempts = self._attempts(seconds)
        while True:
            try:
                return await self._channels.call(
                    path, message.SerializeToString(), attempts.seconds()
                )
            except CallError as error:
                _check_repeatable(path, error)
                await asyncio.sleep(attempts.pause(error))


def _check_repeatable(path: str, error: CallError) -> None:
    """Events are stored twice when they are sent twice.

    An answer without scores took all the time that there was.

    Raises:
        CallError: the call must not be repeated; it is `error`.
    """
    if error.message.startswith(wire.UNRANKED):
        raise error
    if path == wire.APPEND and not error.message.startswith(wire.NOT_SENT):
        raise error


def rank_message(request: RankingRequest) -> Any:
    """Writes a request as a message."""
    ids = request.candidate_item_ids
    return wire.RankRequest(
        user_id=request.user_id,
        candidate_item_ids=[] if ids is None else np.asarray(ids).tolist(),
        num_candidates=int(request.num_candidates),
        deadline_ms=float(request.deadline_ms),
        request_id=request.request_id,
        sort=request.sort,
        top=int(request.top),
    )


def append_message(
    user_id: int, item_ids: IntegerList, category_ids: IntegerList
) -> Any:
    """Writes events as a message.

    Raises:
        RequestError: an argument is not as described.
    """
    items, categories = check_events(item_ids, category_ids)
    return wire.AppendEventsRequest(
        user_id=_user(user_id),
        item_ids=items.tolist(),
        category_ids=categories.tolist(),
    )


def check_events(
    item_ids: IntegerList, category_ids: IntegerList
) -> tuple[np.ndarray, np.ndarray]:
    """Events as two int64 arrays.

    Raises:
        RequestError: they are something else, none, or of unequal length.
    """
    items = id_array("item_ids", item_ids)
    categories = id_array("category_ids", category_ids)
    if not items.size or not items.all():
        raise RequestError(
            "item_ids", "hold at least one id, none of them 0", item_ids
        )
    if len(items) != len(categories):
        raise RequestError(
            "category_ids",
            f"be as long as item_ids, {len(items)}",
            f"{len(categories)} ids",
        )
    return items, categories


def read_rank(message: Any) -> RankingResult:
    """Reads an answer.

    Raises:
        ResponseError: scores and candidates do not fit each other.
    """
    ids = np.array(message.candidate_item_ids, np.int64)
    scores = np.array(message.click_probability, np.float32)
    if message.path != "unranked" and len(ids) != len(scores):
        raise ResponseError(
            f"{len(scores)} scores do not fit {len(ids)} candidates"
        )
    return RankingResult(
        candidate_item_ids=ids,
        click_probability=scores,
        path=message.path,
        history_length=message.history_length,
        generation=message.generation,
        cache_hit=message.cache_hit,
        stages=tuple(
            Stage(s.name, s.start_ms, s.duration_ms, s.outcome)
            for s in message.stages
        ),
        total_ms=message.total_ms,
        request_id=message.request_id,
        candidates_from=message.candidates_from,
    )


def write_rank(result: RankingResult) -> Any:
    """Writes an answer as a message."""
    return wire.RankResponse(
        candidate_item_ids=result.candidate_item_ids.tolist(),
        click_probability=result.click_probability.tolist(),
        path=result.path,
        history_length=result.history_length,
        generation=result.generation,
        cache_hit=result.cache_hit,
        stages=[
            wire.Stage(**dataclasses.asdict(stage)) for stage in result.stages
        ],
        total_ms=result.total_ms,
        request_id=result.request_id,
        candidates_from=result.candidates_from,
    )


def _user(value: Any) -> int:
    whole = isinstance(value, (int, np.integer))
    if not whole or isinstance(value, bool):
        raise RequestError("user_id", "be a whole number", value)
    if not _INT64.min <= value <= _INT64.max:
        raise RequestError("user_id", "fit into 64 bits", value)
    return int(value)
