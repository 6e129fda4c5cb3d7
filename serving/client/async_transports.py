"""Ways to a server for event loops.

gRPC by grpc.aio; REST by the blocking transport in threads of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import numpy as np

from serving.client import wire_grpc
from serving.client.channels import LoopChannels
from serving.client.errors import ClientClosedError, call_error
from serving.client.settings import Timeouts, Tls
from serving.client.transports import RestTransport
from serving.client.types import ModelMetadata, VersionStatus
from serving.client.wire_grpc import Target

__all__ = ["AsyncGrpcTransport", "AsyncRestTransport", "AsyncTransport"]

THREADS = 16
_T = TypeVar("_T")


class AsyncTransport(Protocol):
    """What an asynchronous client needs: `Transport`, as coroutines."""

    async def predict(
        self,
        target: Target,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        seconds: float,
    ) -> dict[str, np.ndarray]:
        """Runs a signature."""
        ...

    async def metadata(self, target: Target, seconds: float) -> ModelMetadata:
        """Asks for the signatures."""
        ...

    async def status(
        self, target: Target, seconds: float
    ) -> list[VersionStatus]:
        """Asks for the states of the versions."""
        ...

    async def close(self) -> None:
        """Frees connections."""
        ...


class AsyncGrpcTransport:
    """Calls by grpc.aio, over one channel.

    The channel is made by the first call, so that the transport may be made
    where no event loop runs.

    Args:
        address: `host:port`.
        timeouts: limits.
        tls: encryption; None is plain text.
        metadata: sent along with every call.
    """

    def __init__(
        self,
        address: str,
        timeouts: Timeouts,
        tls: Tls | None,
        metadata: Mapping[str, str],
    ) -> None:
        """Keeps the settings; see the class for the arguments."""
        self._channels = LoopChannels(
            address, timeouts, tls, metadata, wire_grpc.RESPONSES
        )

    async def predict(
        self,
        target: Target,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        seconds: float,
    ) -> dict[str, np.ndarray]:
        """Runs a signature."""
        request = wire_grpc.predict_request(target, signature, inputs, outputs)
        return wire_grpc.read_predict(
            await self._channels.call(wire_grpc.PREDICT, request, seconds)
        )

    async def metadata(self, target: Target, seconds: float) -> ModelMetadata:
        """Asks for the signatures."""
        request = wire_grpc.metadata_request(target)
        return wire_grpc.read_metadata(
            await self._channels.call(wire_grpc.METADATA, request, seconds)
        )

    async def status(
        self, target: Target, seconds: float
    ) -> list[VersionStatus]:
        """Asks for the states of the versions."""
        request = wire_grpc.status_request(target)
        return wire_grpc.read_status(
            await self._channels.call(wire_grpc.STATUS, request, seconds)
        )

    async def close(self) -> None:
        """Closes the channel; calls in flight end as closed."""
        await self._channels.close()


class AsyncRestTransport:
    """Calls by HTTP in threads.

    A cancelled call frees the caller at once; its thread is busy until the
    server answers or the call's time is over.

    Args:
        url: `http://host:port`, `https://…`, or `host:port`.
        timeouts: limits.
        tls: encryption settings for https.
        metadata: sent as headers with every call.
    """

    def __init__(
        self,
        url: str,
        timeouts: Timeouts,
        tls: Tls | None,
        metadata: Mapping[str, str],
    ) -> None:
        """Keeps the settings; see the class for the arguments."""
        self._transport = RestTransport(url, timeouts, tls, metadata)
        self._threads = ThreadPoolExecutor(THREADS, "muse-rest")

    async def predict(
        self,
        target: Target,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        seconds: float,
    ) -> dict[str, np.ndarray]:
        """Runs a signature."""
        return await self._run(
            self._transport.predict, target, signature, inputs, outputs, seconds
        )

    async def metadata(self, target: Target, seconds: float) -> ModelMetadata:
        """Asks for the signatures."""
        return await self._run(self._transport.metadata, target, seconds)

    async def status(
        self, target: Target, seconds: float
    ) -> list[VersionStatus]:
        """Asks for the states of the versions."""
        return await self._run(self._transport.status, target, seconds)

    async def close(self) -> None:
        """Closes the connections."""
        self._transport.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, method: Callable[..., _T], *arguments: Any) -> _T:
        loop = asyncio.get_running_loop()
        try:
            future = loop.run_in_executor(self._threads, method, *arguments)
        except RuntimeError as error:  # the threads were shut down
            raise ClientClosedError("the client is closed") from error
        # A call that waits for a thread spends its time too.
        return await _within(future, arguments[-1])


async def _within(future: asyncio.Future[_T], seconds: float) -> _T:
    try:
        return await asyncio.wait_for(future, seconds)
    except asyncio.TimeoutError as error:
        raise call_error(
            "DEADLINE_EXCEEDED", f"no answer within {seconds:.3g} s"
        ) from error
