"""gRPC transports, blocking and asynchronous."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import grpc
import grpc.aio

from serving.addresses import is_this_machine, split_address
from serving.client.calls import Call
from serving.client.errors import (
    ClientClosedError,
    DeadlineError,
    MuseClientError,
    RequestError,
    call_error,
)
from serving.client.settings import Timeouts, Tls, ssl_context
from serving.client.wire_grpc import METHODS, Method
from serving.wire.memory import keep_freed_memory

_IDLE_MS = 8_000
_PING_MS = 5_000
_SILENCE_S = 1.0
_T = TypeVar("_T")


class _Channel:
    """A channel and the state of its calls."""

    def __init__(self, channel: Any, methods: Mapping[type, Method]) -> None:
        self.channel = channel
        self.methods = {
            kind: channel.unary_unary(
                method.path, response_deserializer=method.parse
            )
            for kind, method in methods.items()
        }
        self.calls = 0
        self.answered_at = 0.0
        self.silent_since: float | None = None


class _Channels:
    """The channel to one server, which is replaced when its calls time out.

    A router may drop a connection without closing it, while gRPC keeps sending
    into it. Therefore idle channels are closed after some seconds, busy ones
    are pinged, and if no call was answered for a second, the next call opens
    a new channel. Calls in flight finish on the old one.
    """

    _kind: Any

    def __init__(
        self,
        address: str,
        timeouts: Timeouts,
        tls: Tls | None,
        metadata: Mapping[str, str],
        methods: Mapping[type, Method] = METHODS,
    ) -> None:
        try:
            host, _ = split_address(address)
        except ValueError as error:
            raise RequestError(
                "target",
                "be host:port for gRPC, an IPv6 host in brackets",
                "***" if "@" in address else address,
            ) from error
        keep_freed_memory()
        self._address = address
        self._tls = tls
        # gRPC requires lowercase names.
        self._metadata = tuple((k.lower(), v) for k, v in metadata.items())
        self._methods = methods
        self._proxy = "" if is_this_machine(host) else _proxy_of(host)
        self._options: list[tuple[str, Any]] = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            # The minimum time that gRPC gives a connection attempt.
            ("grpc.min_reconnect_backoff_ms", int(timeouts.connect * 1000)),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2000),
            ("grpc.client_idle_timeout_ms", _IDLE_MS),
            # Only during calls: servers close connections on other pings.
            ("grpc.keepalive_time_ms", _PING_MS),
            ("grpc.keepalive_timeout_ms", _PING_MS),
            # Otherwise a new channel would reuse the old connection.
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", int(bool(self._proxy))),
        ]
        self._credentials: grpc.ChannelCredentials | None = None
        if tls is not None:
            ssl_context(tls)  # gRPC accepts any file and fails later.
            if tls.server_name:
                self._options.append(
                    ("grpc.ssl_target_name_override", tls.server_name)
                )
            files = (tls.ca_file, tls.key_file, tls.certificate_file)
            self._credentials = grpc.ssl_channel_credentials(
                *(f and pathlib.Path(f).read_bytes() for f in files)
            )
        self._lock = threading.Lock()
        self._current: _Channel | None = None
        self._old: set[_Channel] = set()
        self._closed = False

    @contextlib.contextmanager
    def _attempt(self) -> Iterator[_Channel]:
        """Provides the channel for a call; raises this package's errors."""
        started, answered = time.monotonic(), True
        with self._lock:
            if self._closed:
                raise ClientClosedError("the client is closed")
            if self._current is None:
                self._current = _Channel(self._open(), self._methods)
            used = self._current
            used.calls += 1
        try:
            yield used
        except grpc.RpcError as error:
            failure = self._error(error)
            answered = not isinstance(failure, DeadlineError)
            raise failure from None
        except (ValueError, grpc.aio.UsageError, asyncio.CancelledError) as e:
            answered = False
            if self._closed:  # what grpc raises on a closed channel
                raise ClientClosedError("the client is closed") from e
            raise
        finally:
            self._over(used, started, answered)

    def _over(self, used: _Channel, started: float, answered: bool) -> None:
        """Records the end of a call. A timeout counts as no answer."""
        with self._lock:
            used.calls -= 1
            if answered:
                used.silent_since, used.answered_at = None, time.monotonic()
                return
            if used.silent_since is None:
                used.silent_since = max(started, used.answered_at)
            silent = time.monotonic() - used.silent_since
            if used is self._current and silent >= _SILENCE_S:
                self._current = None
                self._old.add(used)

    def _unused(self) -> list[Any]:
        """Returns the old channels without calls, which can be closed."""
        if not self._old:
            return []
        with self._lock:
            unused = {used for used in self._old if not used.calls}
            self._old -= unused
        return [used.channel for used in unused]

    def _end(self) -> list[Any]:
        """Rejects further calls and returns all channels, to be closed."""
        with self._lock:
            self._closed = True
            channels = [*self._old, *([self._current] if self._current else [])]
            self._old, self._current = set(), None
        return [used.channel for used in channels]

    def _error(self, error: grpc.RpcError) -> MuseClientError:
        """Converts the error of a failed call.

        A call that the server canceled, rather than the caller, was dropped
        because the server is stopping, so it is reported as unavailable.
        """
        code, text = error.code().name, error.details() or ""
        if code == "CANCELLED":
            if self._closed:
                return ClientClosedError("the client is closed")
            code = "UNAVAILABLE"
        if code == "UNAVAILABLE":
            if self._proxy:
                text += f" (through the proxy of {self._proxy})"
            if "HTTP/2" in text or "http1.x" in text:
                text += " (this is not gRPC: is it the REST port?)"
            text += without_certificate(self._tls)
        return call_error(code, text)

    def _open(self) -> Any:
        if self._credentials is None:
            return self._kind.insecure_channel(self._address, self._options)
        return self._kind.secure_channel(
            self._address, self._credentials, self._options
        )


class GrpcTransport(_Channels):
    """The blocking transport, which is thread-safe. Arguments: `_Channels`."""

    _kind = grpc

    def send(self, call: Call[_T], seconds: float) -> _T:
        """As `Transport.send`."""
        method = self._methods[type(call)]
        request = method.write(call)
        try:
            with self._attempt() as used:
                response = used.methods[type(call)](
                    request, timeout=seconds, metadata=self._metadata
                )
        finally:
            for channel in self._unused():
                channel.close()
        answer: _T = method.read(response)
        return answer

    def close(self) -> None:
        """Closes the channel; calls in flight fail with `ClientClosedError`."""
        for channel in self._end():
            channel.close()


class AsyncGrpcTransport(_Channels):
    """The asynchronous transport. Its first call opens the channel."""

    _kind = grpc.aio

    async def send(self, call: Call[_T], seconds: float) -> _T:
        """As `Transport.send`. Canceling it cancels the call."""
        method = self._methods[type(call)]
        request = method.write(call)
        try:
            with self._attempt() as used:
                response = await used.methods[type(call)](
                    request, timeout=seconds, metadata=self._metadata
                )
        finally:
            for channel in self._unused():
                await channel.close()
        answer: _T = method.read(response)
        return answer

    async def close(self) -> None:
        """As `GrpcTransport.close`."""
        for channel in self._end():
            await channel.close()


def without_certificate(tls: Tls | None) -> str:
    """Returns a hint, as a server only closes connections without one."""
    if tls is None or tls.certificate_file is not None:
        return ""
    return " (a server that asks for certificates needs certificate_file)"


def _proxy_of(host: str) -> str:
    """Returns the environment variable and the proxy that gRPC would use."""
    around = os.environ.get("no_grpc_proxy") or os.environ.get("no_proxy", "")
    for end in around.replace(",", " ").split():
        if end == "*" or f".{host}".endswith("." + end.lstrip("*.")):
            return ""
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):
        if value := os.environ.get(name):
            # gRPC supports only http proxies. It logs others and skips them.
            is_known = value.startswith("http://")
            place = urllib.parse.urlsplit(value).netloc.rpartition("@")[2]
            return f"{name}, {place}" if is_known and place else ""
    return ""
