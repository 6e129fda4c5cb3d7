"""gRPC channels, blocking and for event loops: the one place they come from."""

from __future__ import annotations

import asyncio
import os
import pathlib
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

import grpc
import grpc.aio

from serving.addresses import is_this_machine, split_address
from serving.client.certificates import ssl_context
from serving.client.errors import (
    CallError,
    ClientClosedError,
    DeadlineError,
    RequestError,
    call_error,
)
from serving.client.settings import Timeouts, Tls
from serving.wire.memory import keep_freed_memory

__all__ = [
    "SERVER_KEEPALIVE",
    "Channels",
    "LoopChannels",
    "without_certificate",
]

SERVER_KEEPALIVE = (
    # Callers may ping as often as they like, to notice a lost connection.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)
"""Options of a gRPC server: it lets clients ping, and finds those gone."""

_IDLE_MS = 8_000
_PING_MS = 5_000
_SILENCE_S = 1.0


class _Line:
    """One channel, and how its calls fare."""

    def __init__(
        self, channel: Any, responses: Mapping[str, Callable[[bytes], Any]]
    ) -> None:
        self.channel = channel
        self.methods = {
            path: channel.unary_unary(path, response_deserializer=read)
            for path, read in responses.items()
        }
        self.calls = 0
        self.answered_at = 0.0
        self.silent_since: float | None = None


class _Channels:
    """The channel to one server, opened anew when its calls time out.

    A box on the way may forget a connection without closing it: gRPC keeps
    sending into it. What is idle is therefore closed after some seconds, what
    is busy is pinged, and when calls got no answer for a second, the next
    one opens another channel. Those in flight end on the old one.

    Args:
        address: `host:port`.
        timeouts: limits.
        tls: encryption; None is plain text.
        metadata: sent along with every call.
        responses: path of a method to what reads its answer.

    Raises:
        RequestError: the address is something else, or certificates and key
            cannot be used.
        OSError: a certificate or key cannot be read.
    """

    _kind: Any

    def __init__(
        self,
        address: str,
        timeouts: Timeouts,
        tls: Tls | None,
        metadata: Mapping[str, str],
        responses: Mapping[str, Callable[[bytes], Any]],
    ) -> None:
        """Checks and reads everything; see the class for the arguments."""
        try:
            host, _ = split_address(address)
        except ValueError as error:
            raise RequestError(
                "target",
                "be host:port for gRPC, an IPv6 host in brackets",
                address,
            ) from error
        keep_freed_memory()
        self._address = address
        self._tls = tls
        # gRPC wants names in lower case.
        self._metadata = tuple((k.lower(), v) for k, v in metadata.items())
        self._responses = responses
        self._proxy = "" if is_this_machine(host) else _proxy_of(host)
        self._options: list[tuple[str, Any]] = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            # The least time a connection attempt is given.
            ("grpc.min_reconnect_backoff_ms", int(timeouts.connect * 1000)),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2000),
            ("grpc.client_idle_timeout_ms", _IDLE_MS),
            # Only while calls wait: servers punish other pings.
            ("grpc.keepalive_time_ms", _PING_MS),
            ("grpc.keepalive_timeout_ms", _PING_MS),
            # A new channel would get the connection of the old one.
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", int(bool(self._proxy))),
        ]
        self._credentials: grpc.ChannelCredentials | None = None
        if tls is not None:
            ssl_context(tls)  # gRPC would take any file, and fail later.
            if tls.server_name:
                self._options.append(
                    ("grpc.ssl_target_name_override", tls.server_name)
                )
            self._credentials = _channel_credentials(tls)
        self._lock = threading.Lock()
        self._line: _Line | None = None
        self._old: set[_Line] = set()
        self._closed = False

    def _take(self) -> _Line:
        """The line for a call; `_give` it back when the call is over."""
        with self._lock:
            if self._closed:
                raise ClientClosedError("the client is closed")
            if self._line is None:
                self._line = _Line(self._open(), self._responses)
            self._line.calls += 1
            return self._line

    def _give(self, line: _Line, started: float, answered: bool) -> list[Any]:
        """A call is over.

        Args:
            line: what `_take` gave.
            started: when the call began, by `time.monotonic`.
            answered: False if it was given up, by its deadline or its caller.

        Returns:
            Channels to close now.
        """
        with self._lock:
            line.calls -= 1
            if answered:
                line.silent_since, line.answered_at = None, time.monotonic()
            else:
                if line.silent_since is None:
                    line.silent_since = max(started, line.answered_at)
                silent = time.monotonic() - line.silent_since
                if line is self._line and silent >= _SILENCE_S:
                    self._line = None
                    self._old.add(line)
            if line in self._old and not line.calls:
                self._old.discard(line)
                return [line.channel]
        return []

    def _end(self) -> list[Any]:
        """Ends it.

        Returns:
            Channels to close now.
        """
        with self._lock:
            self._closed = True
            lines = [*self._old, *([self._line] if self._line else [])]
            self._old, self._line = set(), None
        return [line.channel for line in lines]

    def _error(self, error: grpc.RpcError) -> CallError:
        """What a failed call means.

        A call that the server cancelled, not its caller, was dropped by a
        server that stops: it is unavailable.
        """
        code, text = error.code().name, error.details() or ""
        if code == "CANCELLED" and not self._closed:
            code = "UNAVAILABLE"
        if code == "UNAVAILABLE":
            if self._proxy:
                text += f" (through the proxy of {self._proxy})"
            text += without_certificate(self._tls)
        return call_error(code, text)

    def _open(self) -> Any:
        if self._credentials is None:
            return self._kind.insecure_channel(self._address, self._options)
        return self._kind.secure_channel(
            self._address, self._credentials, self._options
        )


class Channels(_Channels):
    """For threads, which may share it; see `_Channels`."""

    _kind = grpc

    def call(self, path: str, request: bytes, seconds: float) -> Any:
        """Calls a method.

        Args:
            path: of the method.
            request: the message.
            seconds: that the call may take.

        Raises:
            CallError: it failed.
            ClientClosedError: `close` was called.
        """
        line, started, answered = self._take(), time.monotonic(), True
        try:
            return line.methods[path](
                request, timeout=seconds, metadata=self._metadata
            )
        except grpc.RpcError as error:
            failure = self._error(error)
            answered = not isinstance(failure, DeadlineError)
            raise failure from None
        except ValueError as error:  # what grpc raises on a closed channel
            raise ClientClosedError("the client is closed") from error
        finally:
            for channel in self._give(line, started, answered):
                channel.close()

    def close(self) -> None:
        """Closes the channel; calls in flight end as CANCELLED."""
        for channel in self._end():
            channel.close()


class LoopChannels(_Channels):
    """For an event loop; its first call makes the channel in it."""

    _kind = grpc.aio

    async def call(self, path: str, request: bytes, seconds: float) -> Any:
        """As `Channels.call`; cancelling it cancels the call."""
        line, started, answered = self._take(), time.monotonic(), True
        try:
            return await line.methods[path](
                request, timeout=seconds, metadata=self._metadata
            )
        except grpc.aio.AioRpcError as error:
            failure = self._error(error)
            answered = not isinstance(failure, DeadlineError)
            raise failure from None
        except (grpc.aio.UsageError, asyncio.CancelledError) as error:
            answered = False
            if self._closed:  # what grpc raises on a closed channel
                raise ClientClosedError("the client is closed") from error
            raise
        finally:
            for channel in self._give(line, started, answered):
                await channel.close()

    async def close(self) -> None:
        """Closes the channel; calls in flight end as closed."""
        for channel in self._end():
            await channel.close()


def without_certificate(tls: Tls | None) -> str:
    """What to add to the error of a client that shows no certificate.

    A server that wants one closes the connection, often without a word.
    """
    if tls is None or tls.certificate_file is not None:
        return ""
    return " (a server that asks for certificates needs certificate_file)"


def _proxy_of(host: str) -> str:
    """The variable that sends gRPC to a proxy, and the proxy; or nothing."""
    around = os.environ.get("no_grpc_proxy") or os.environ.get("no_proxy", "")
    for end in around.replace(",", " ").split():
        if end == "*" or f".{host}".endswith("." + end.lstrip("*.")):
            return ""
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):
        if value := os.environ.get(name):
            # gRPC knows no other proxies: it goes without one, with a log.
            is_known = value.startswith("http://")
            place = urllib.parse.urlsplit(value).netloc.rpartition("@")[2]
            return f"{name}, {place}" if is_known and place else ""
    return ""


def _channel_credentials(tls: Tls) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        root_certificates=_read(tls.ca_file),
        private_key=_read(tls.key_file),
        certificate_chain=_read(tls.certificate_file),
    )


def _read(path: str | pathlib.Path | None) -> bytes | None:
    return None if path is None else pathlib.Path(path).read_bytes()
