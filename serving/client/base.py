"""Code that all clients share: settings, attempts and closing."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Concatenate,
    Generic,
    Literal,
    ParamSpec,
    TypeVar,
)

from serving.client.attempts import Attempts
from serving.client.batches import Limits
from serving.client.calls import (
    AsyncTransport,
    Call,
    Plan,
    PlanSteps,
    Target,
    Transport,
)
from serving.client.declaration import Declaration
from serving.client.declared_inputs import DeclaredInputs
from serving.client.errors import CallError, ClientClosedError, RequestError
from serving.client.settings import Retry, Timeouts, Tls

if TYPE_CHECKING:
    from schemas.ranking_schema import RankingSchema

_T = TypeVar("_T")
_P = ParamSpec("_P")
_Transport = TypeVar("_Transport")
_Client = TypeVar("_Client", bound="BlockingClient")
_Async = TypeVar("_Async", bound="AsyncClient")


class BaseClient:
    """The settings of a client and its `repr`."""

    _transport: Any

    def __init__(
        self,
        target: str,
        timeouts: Timeouts | None,
        retry: Retry | None,
        metadata: Mapping[str, str] | None,
    ) -> None:
        self._address = target
        self._timeouts = timeouts or Timeouts()
        self._retry = retry or Retry()
        self._metadata_names = sorted(metadata or {})
        self._closed = False

    def _shown(self) -> list[str]:
        """Returns what `repr` shows in addition to target and metadata."""
        return []

    def __repr__(self) -> str:
        parts = [repr(self._address), *self._shown()]
        if self._metadata_names:
            hidden = ", ".join(f"{n!r}: '***'" for n in self._metadata_names)
            parts.append(f"metadata={{{hidden}}}")
        if self._closed:
            parts.append("closed")
        return f"{type(self).__name__}({', '.join(parts)})"

    def _attempts(self, timeout: float | None) -> Attempts:
        return Attempts(timeout, self._timeouts, self._retry)

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosedError("the client is closed")


class ModelClient(BaseClient, Generic[_Transport]):
    """Settings of the clients of a model server; see `MuseClient`."""

    _transports: ClassVar[Mapping[str, Any]]

    def __init__(
        self,
        target: str,
        transport: Literal["grpc", "rest"] | _Transport = "grpc",
        model: str = "muse",
        *,
        version: int | None = None,
        label: str | None = None,
        timeouts: Timeouts | None = None,
        retry: Retry | None = None,
        tls: Tls | None = None,
        metadata: Mapping[str, str] | None = None,
        limits: Limits | None = None,
        schema: RankingSchema
        | Declaration
        | str
        | os.PathLike[str]
        | None = None,
    ) -> None:
        super().__init__(target, timeouts, retry, metadata)
        self._model = Target(model, version, label)
        if not isinstance(schema, Declaration):
            schema = Declaration(schema)
        self._inputs = DeclaredInputs(self._model, schema)
        self._limits = limits or Limits()
        if isinstance(transport, str):
            if transport not in self._transports:
                raise RequestError(
                    "transport", "be 'grpc' or 'rest'", transport
                )
            transport = self._transports[transport](
                target, self._timeouts, tls, metadata or {}
            )
        self._transport = transport

    def _shown(self) -> list[str]:
        parts = [f"model={self._model.model!r}"]
        if self._model.version is not None:
            parts.append(f"version={self._model.version}")
        if self._model.label is not None:
            parts.append(f"label={self._model.label!r}")
        return parts


class BlockingClient(BaseClient):
    """A client whose methods wait for the answer."""

    _transport: Transport

    def close(self) -> None:
        """Closes the connections. Closing again does nothing."""
        if not self._closed:
            self._closed = True
            self._transport.close()

    def __enter__(self: _Client) -> _Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, plan: Plan[_T], timeout: float | None) -> _T:
        attempts, steps = self._attempts(timeout), PlanSteps(plan)
        while (call := steps.next_call()) is not None:
            attempts.next_call()
            try:
                steps.answer(self._send(call, attempts))
            except CallError as error:
                steps.fail(error)
        return steps.result

    def _send(self, call: Call[_T], attempts: Attempts) -> _T:
        while True:
            self._check_open()
            seconds = attempts.seconds()
            try:
                return self._transport.send(call, seconds)
            except CallError as error:
                time.sleep(attempts.pause(call, error))


class AsyncClient(BaseClient):
    """A client whose methods are coroutines."""

    _transport: AsyncTransport | Transport

    async def close(self) -> None:
        """Closes the connections. Closing again does nothing."""
        if not self._closed:
            self._closed = True
            done = self._transport.close()
            if done is not None:
                await done

    async def __aenter__(self: _Async) -> _Async:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _run(self, plan: Plan[_T], timeout: float | None) -> _T:
        attempts, steps = self._attempts(timeout), PlanSteps(plan)
        while (call := steps.next_call()) is not None:
            attempts.next_call()
            try:
                steps.answer(await self._send(call, attempts))
            except CallError as error:
                steps.fail(error)
        return steps.result

    async def _send(self, call: Call[Any], attempts: Attempts) -> Any:
        while True:
            self._check_open()
            seconds = attempts.seconds()
            try:
                answer = self._transport.send(call, seconds)
                return await answer if inspect.isawaitable(answer) else answer
            except CallError as error:
                await asyncio.sleep(attempts.pause(call, error))


def awaited(
    method: Callable[Concatenate[_Client, _P], _T],
) -> Callable[Concatenate[Any, _P], Coroutine[Any, Any, _T]]:
    """Derives a method of an asynchronous client from the blocking one.

    Each method creates a `Plan` and passes it to `_run`, which both clients
    have; the result of `AsyncClient._run` must be awaited. The signature, the
    overloads and the docstring are kept.
    """

    async def call(self: Any, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        result: Any = method(self, *args, **kwargs)
        return await result

    functools.update_wrapper(call, method)
    return call
