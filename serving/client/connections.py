"""Connections by HTTP that threads share, with a deadline for all of a call."""

from __future__ import annotations

import contextlib
import http.client
import io
import select
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from typing import Any

from serving.addresses import join_address

__all__ = ["CONNECTIONS", "Connections"]

CONNECTIONS = 32
"""Open at most at once, to one server."""
_IDLE_S = 8.0


class Connections:
    """Connections to one server; never through a proxy.

    Args:
        host: where it is, without brackets.
        port: where it is; None takes the scheme's.
        connect: seconds to reach it.
        context: whom to trust; None is plain text.
        server_name: in its certificate; None is the host's.

    Attributes:
        address: `host:port`.
        closed: whether `close` was called.
    """

    def __init__(
        self,
        host: str,
        port: int | None,
        connect: float,
        context: ssl.SSLContext | None,
        server_name: str | None,
    ) -> None:
        """Keeps the settings; see the class for the arguments."""
        self._host = host
        self._port = port or (80 if context is None else 443)
        self.address = join_address(host, self._port)
        self._connect = connect
        self._context = context
        self._server_name = server_name or host
        self._places = threading.BoundedSemaphore(CONNECTIONS)
        self._lock = threading.Lock()
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()
        self.closed = False

    def send(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        ends: float,
    ) -> tuple[int, bytes]:
        """Sends a request and reads the whole answer.

        Args:
            method: GET or POST.
            path: of the URL.
            body: to send.
            headers: to send.
            ends: when it must be over, by `time.monotonic`.

        Returns:
            Status and body.

        Raises:
            TimeoutError: it was not over by then.
            OSError: it failed, or `close` was called.
            http.client.HTTPException: the answer is not HTTP.
        """
        if not self._places.acquire(timeout=max(0.0, ends - time.monotonic())):
            raise TimeoutError
        try:
            connection = self._take()
            try:
                connection.ends = ends
                connection.request(method, path, body, dict(headers))
                response = connection.getresponse()
                answer = response.status, response.read()
            except BaseException:
                self._give(connection, keep=False)
                raise
            self._give(connection, keep=connection.sock is not None)
            return answer
        finally:
            self._places.release()

    def close(self) -> None:
        """Closes all; calls in flight fail."""
        with self._lock:
            self.closed = True
            connections = [*self._idle, *self._busy]
            self._idle.clear()
        for connection in connections:
            connection.shut()

    def _take(self) -> _Connection:
        old = []
        with self._lock:
            if self.closed:
                raise OSError("the client is closed")
            found = None
            while found is None and self._idle:
                found = self._idle.pop()
                if not found.usable():
                    old.append(found)
                    found = None
            if found is None:
                found = _Connection(
                    self._host,
                    self._port,
                    self._connect,
                    self._context,
                    self._server_name,
                )
            self._busy.add(found)
        for connection in old:
            connection.close()
        return found

    def _give(self, connection: _Connection, keep: bool) -> None:
        with self._lock:
            self._busy.discard(connection)
            keep = keep and not self.closed
            if keep:
                connection.used = time.monotonic()
                self._idle.append(connection)
        if not keep:
            connection.close()


class _Connection(http.client.HTTPConnection):
    """One connection; `ends` is when the call on it must be over."""

    def __init__(
        self,
        host: str,
        port: int,
        connect: float,
        context: ssl.SSLContext | None,
        server_name: str,
    ) -> None:
        super().__init__(host, port)
        if context is not None:
            self.default_port = 443  # Else the Host header names the port.
        self._limit = connect
        self._tls = context
        self._name = server_name
        self.ends = 0.0
        self.used = 0.0

    def connect(self) -> None:
        """Connects, and encrypts."""
        ends = min(self.ends, time.monotonic() + self._limit)
        error: OSError = OSError("the host has no address")
        for family, kind, number, _, place in socket.getaddrinfo(
            self.host, self.port, type=socket.SOCK_STREAM
        ):
            plain = socket.socket(family, kind, number)
            try:
                plain.settimeout(_left(ends))
                plain.connect(place)
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                plain.settimeout(_left(ends))
                if self._tls is not None:
                    plain = self._tls.wrap_socket(
                        plain, server_hostname=self._name
                    )
            except TimeoutError as failed:
                plain.close()
                if time.monotonic() >= self.ends:
                    raise
                error = ConnectionError(
                    f"no connection within {self._limit:.3g} s"
                )
                error.__cause__ = failed
            except OSError as failed:
                plain.close()
                error = failed
            else:
                self.sock: Any = _TimedSocket(plain, self)
                return
        raise error

    def usable(self) -> bool:
        """Whether it may carry another call.

        What was idle for long may be forgotten by a box on the way; what can
        be read before a call is sent is the other side's end.
        """
        if self.sock is None or time.monotonic() - self.used > _IDLE_S:
            return False
        poll = select.poll()
        poll.register(self.sock.plain, select.POLLIN)
        return not poll.poll(0)

    def shut(self) -> None:
        """Ends it under a thread that may be using it."""
        if (timed := self.sock) is not None:
            with contextlib.suppress(OSError):
                timed.plain.shutdown(socket.SHUT_RDWR)


class _TimedSocket:
    """What `http.client` needs of a socket, each wait within the deadline."""

    def __init__(self, plain: socket.socket, owner: _Connection) -> None:
        self.plain = plain
        self._owner = owner

    def sendall(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            self.wait()
            rest = rest[self.plain.send(rest) :]

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Answer(self))

    def close(self) -> None:
        self.plain.close()

    def wait(self) -> None:
        """Lets the next operation wait for what is left of the time."""
        self.plain.settimeout(_left(self._owner.ends))


class _Answer(io.RawIOBase):
    """The bytes that come in."""

    def __init__(self, timed: _TimedSocket) -> None:
        self._timed = timed
        # It holds the socket open until the answer is read.
        self._raw = timed.plain.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._timed.wait()
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


def _left(ends: float) -> float:
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
