"""Descriptions of calls, used by all transports and by both clients."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from serving.client.errors import CallError, RequestError
from serving.client.types import ModelMetadata, VersionStatus

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Target:
    """The model that a call addresses: a version, a label, or the newest."""

    model: str
    version: int | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        if not self.model:
            raise RequestError("model", "be a name", self.model)
        if self.version is not None and self.label is not None:
            raise RequestError(
                "version", "not be given together with `label`", self.version
            )


class Call(Generic[_T]):
    """One call to a server. The type argument is the type of its result."""

    def may_repeat(self, error: CallError) -> bool:
        """Returns whether the call may be sent again after `error`."""
        return True

    def plan(self) -> Plan[_T]:
        """Returns a plan that consists of this call."""
        answer: _T = yield self
        return answer


Plan = Generator[Call[Any], Any, _T]
"""The steps of a client's method: successive calls, then a result.

A plan yields a call and is sent its answer, or the `CallError` with which the
last attempt failed. It returns the result, or raises `ResponseError`.
"""


class PlanSteps(Generic[_T]):
    """Runs a plan. The client decides whether sending blocks.

    Attributes:
        result: the plan's result, once `next_call` is None.
    """

    result: _T

    def __init__(self, plan: Plan[_T]) -> None:
        self._plan = plan
        self._resume: Callable[[], Call[Any]] = plan.__next__

    def next_call(self) -> Call[Any] | None:
        """Returns the next call, or None at the end of the plan."""
        try:
            return self._resume()
        except StopIteration as end:
            self.result = end.value
            return None

    def answer(self, answer: Any) -> None:
        """Stores the answer of the call for the plan."""
        self._resume = functools.partial(self._plan.send, answer)

    def fail(self, error: CallError) -> None:
        """Stores the error of the call for the plan."""
        self._resume = functools.partial(self._plan.throw, error)


@dataclasses.dataclass(frozen=True, eq=False)
class Predict(Call[dict[str, np.ndarray]]):
    """Runs a signature. Empty `outputs` request all outputs."""

    target: Target
    signature: str
    inputs: Mapping[str, np.ndarray]
    outputs: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class GetMetadata(Call[ModelMetadata]):
    """Requests the signatures of a model."""

    target: Target


@dataclasses.dataclass(frozen=True)
class GetStatus(Call[list[VersionStatus]]):
    """Requests the states of a model's versions, newest first."""

    target: Target


class Transport(Protocol):
    """Makes one attempt at a call. Retries are up to the client."""

    def send(self, call: Call[_T], seconds: float) -> _T:
        """Returns the answer.

        Args:
            call: the call.
            seconds: time limit for the whole answer.

        Raises:
            CallError: the call failed.
            ResponseError: the answer cannot be parsed.
        """
        ...

    def close(self) -> None:
        """Closes the connections."""
        ...


class AsyncTransport(Protocol):
    """`Transport` with coroutines."""

    async def send(self, call: Call[_T], seconds: float) -> _T:
        """As `Transport.send`."""
        ...

    async def close(self) -> None:
        """As `Transport.close`."""
        ...
