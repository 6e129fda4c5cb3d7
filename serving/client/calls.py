"""What clients send, described once for every transport and both clients."""

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
    """Which model a call asks: a version, the one of a label, or the newest."""

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
    """One call to a server; the type argument is the type of its answer."""

    def may_repeat(self, error: CallError) -> bool:
        """Returns whether the call may be sent again after `error`."""
        return True

    def plan(self) -> Plan[_T]:
        """Only makes this call."""
        answer: _T = yield self
        return answer


Plan = Generator[Call[Any], Any, _T]
"""What a method of a client does: calls, one after the other, and a result.

A plan yields a call and is sent its answer, or thrown the `CallError` that
ended its attempts; it returns the result, or raises `ResponseError`.
"""


class PlanSteps(Generic[_T]):
    """Goes through a plan; whether sending waits is up to the client.

    Attributes:
        result: what the plan returned, once `next_call` is None.
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
        """Keeps the answer of the call for the plan."""
        self._resume = functools.partial(self._plan.send, answer)

    def fail(self, error: CallError) -> None:
        """Keeps the error that ended the call for the plan."""
        self._resume = functools.partial(self._plan.throw, error)


@dataclasses.dataclass(frozen=True, eq=False)
class Predict(Call[dict[str, np.ndarray]]):
    """Runs a signature; no `outputs` mean all."""

    target: Target
    signature: str
    inputs: Mapping[str, np.ndarray]
    outputs: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class GetMetadata(Call[ModelMetadata]):
    """Asks for the signatures of a model."""

    target: Target


@dataclasses.dataclass(frozen=True)
class GetStatus(Call[list[VersionStatus]]):
    """Asks for the states of a model's versions, newest first."""

    target: Target


class Transport(Protocol):
    """Makes one attempt at a call; the client makes the others."""

    def send(self, call: Call[_T], seconds: float) -> _T:
        """Returns the answer.

        Args:
            call: what to ask.
            seconds: time until the whole answer must be there.

        Raises:
            CallError: the call failed.
            ResponseError: the answer cannot be understood.
        """
        ...

    def close(self) -> None:
        """Frees connections."""
        ...


class AsyncTransport(Protocol):
    """`Transport` with coroutines."""

    async def send(self, call: Call[_T], seconds: float) -> _T:
        """As `Transport.send`."""
        ...

    async def close(self) -> None:
        """As `Transport.close`."""
        ...
