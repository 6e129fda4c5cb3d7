"""urllib3 connections with a time limit for the whole call.

urllib3 limits each wait but not the whole call, and DNS lookups not at all.
All internals of urllib3 and `http.client` that the limit needs are in this
module. tests/serving/client/test_urllib3_internals.py has a test for each of
them.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import queue
import socket
import threading
import time
from typing import Any

import urllib3.connection

_IDLE_S = 8.0


class _Limits(threading.local):
    """The time limit of this thread's call, which its connection reads."""

    ends = 0.0
    connect = 0.0

    def left(self, ends: float | None = None) -> float:
        """Returns the seconds until `ends`, or else the end of the call."""
        left = (self.ends if ends is None else ends) - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left


limits = _Limits()


class _BoundedReader(io.RawIOBase):
    """The bytes of an answer. No wait exceeds the time limit of the call."""

    def __init__(self, plain: Any) -> None:
        self._socket = plain
        # The file keeps the socket open until the answer is read.
        self._raw = plain.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._socket.settimeout(limits.left())
        count: int | None = self._raw.readinto(buffer)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(_BoundedReader(sock))


class BoundedConnection(urllib3.connection.HTTPConnection):
    """A connection whose waits end with the time limit of the call."""

    response_class = _Response
    _used = 0.0

    def _new_conn(self) -> socket.socket:
        """Connects to the first address that answers.

        The remaining time also limits the TLS handshake.
        """
        ends = min(limits.ends, time.monotonic() + limits.connect)
        error = OSError("the host has no address")
        for family, kind, number, _, place in _look_up(
            self.host, self.port, limits.left(ends)
        ):
            plain = socket.socket(family, kind, number)
            try:
                plain.settimeout(limits.left(ends))
                plain.connect(place)
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                plain.settimeout(limits.left(ends))
                return plain
            except OSError as failed:
                plain.close()
                error = failed
        raise error

    def send(self, data: Any) -> None:
        """Sends a part of a request."""
        if self.sock is None:
            self.connect()
        self.sock.settimeout(limits.left())
        self._used = time.monotonic()
        super().send(data)

    @property
    def is_connected(self) -> bool:
        """Returns whether the connection is open and was used recently.

        A router may have dropped an idle connection.
        """
        is_fresh = time.monotonic() - self._used < _IDLE_S
        return is_fresh and super().is_connected


class BoundedTlsConnection(
    BoundedConnection, urllib3.connection.HTTPSConnection
):
    """A bounded connection with TLS."""


def _look_up(host: str, port: int, seconds: float) -> list[Any]:
    """Returns the addresses of a host.

    The system's lookup cannot be canceled; its thread runs until it ends. An IP
    address needs no lookup.
    """
    with contextlib.suppress(socket.gaierror):
        return socket.getaddrinfo(
            host,
            port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_NUMERICHOST,
        )
    found: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask() -> None:
        try:
            found.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except Exception as error:
            found.put(error)

    threading.Thread(target=ask, name="muse-lookup", daemon=True).start()
    try:
        answer = found.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError("timed out") from None
    if isinstance(answer, Exception):
        raise answer
    return list(answer)
