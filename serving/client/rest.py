"""REST transports, blocking and asynchronous."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import urllib3

from serving.addresses import bare_host, join_address
from serving.client import wire_rest
from serving.client.calls import Call, GetMetadata, GetStatus, Predict, Target
from serving.client.channels import without_certificate
from serving.client.errors import ClientClosedError, RequestError, call_error
from serving.client.settings import Timeouts, Tls, ssl_context
from serving.client.types import ModelMetadata, TensorSpec
from serving.client.urllib3_internals import (
    BoundedConnection,
    BoundedTlsConnection,
    limits,
)

CONNECTIONS = 32
"""Maximum number of open connections of a client."""
_THREADS = 16
_NO_RETRY = urllib3.Retry(False)
_T = TypeVar("_T")


class RestTransport:
    """The blocking transport. Threads share up to `CONNECTIONS` connections.

    A call waits for a free connection, within its time. Proxies are not used.
    """

    def __init__(
        self,
        url: str,
        timeouts: Timeouts,
        tls: Tls | None,
        metadata: Mapping[str, str],
    ) -> None:
        parts = _split_url(url, tls)
        self._prefix = (parts.path or "").rstrip("/")
        self._tls = tls
        self._connect = timeouts.connect
        self._headers = {"Content-Type": "application/json", **metadata}
        host = bare_host(parts.host or "")
        settings: dict[str, Any] = {"maxsize": CONNECTIONS, "block": True}
        self._pool: Any  # urllib3's annotations are too narrow.
        if parts.scheme == "https":
            self._kind: Any = BoundedTlsConnection
            self._pool = urllib3.HTTPSConnectionPool(
                host,
                parts.port or 443,
                ssl_context=ssl_context(tls or Tls()),
                server_hostname=tls.server_name if tls else None,
                **settings,
            )
        else:
            self._kind = BoundedConnection
            self._pool = urllib3.HTTPConnectionPool(
                host, parts.port or 80, **settings
            )
        self._pool.ConnectionCls = self._opened
        self._address = join_address(host, self._pool.port)
        self._lock = threading.Lock()
        self._open: weakref.WeakSet[BoundedConnection] = weakref.WeakSet()
        self._closed = False
        self._known: dict[Target, ModelMetadata] = {}

    def send(self, call: Call[_T], seconds: float) -> _T:
        """As `Transport.send`."""
        limits.ends = time.monotonic() + seconds
        limits.connect = self._connect
        answer: Any
        if isinstance(call, Predict):
            answer = self._predict(call, seconds)
        elif isinstance(call, GetStatus):
            request = wire_rest.status_call(call.target)
            answer = wire_rest.read_status(self._ask(request, seconds))
        elif isinstance(call, GetMetadata):
            answer = self._metadata(call.target, seconds)
        else:
            raise TypeError(f"no REST call for {type(call).__name__}")
        return answer

    def close(self) -> None:
        """Closes the connections; calls in flight raise `ClientClosedError`."""
        with self._lock:
            self._closed = True
            connections = list(self._open)
        self._pool.close()
        for connection in connections:
            if (plain := connection.sock) is not None:
                with contextlib.suppress(OSError):
                    plain.shutdown(socket.SHUT_RDWR)

    def _opened(self, **settings: Any) -> BoundedConnection:
        connection: BoundedConnection = self._kind(**settings)
        with self._lock:
            self._open.add(connection)
        return connection

    def _predict(self, call: Predict, seconds: float) -> dict[str, np.ndarray]:
        """Runs a signature; `outputs` are selected from the whole answer."""
        request = wire_rest.predict_call(
            call.target, call.signature, call.inputs
        )
        specs = self._output_specs(call, seconds)
        found = wire_rest.read_predict(self._ask(request, seconds), specs)
        missing = [name for name in call.outputs if name not in found]
        if missing:
            raise call_error(
                "INVALID_ARGUMENT",
                f"output tensor alias not found in signature: {missing[0]} "
                f"Outputs expected to be in the set "
                f"{{{','.join(sorted(found))}}}.",
            )
        return {name: found[name] for name in call.outputs or found}

    def _metadata(self, target: Target, seconds: float) -> ModelMetadata:
        request = wire_rest.metadata_call(target)
        return wire_rest.read_metadata(self._ask(request, seconds))

    def _output_specs(
        self, call: Predict, seconds: float
    ) -> Mapping[str, TensorSpec]:
        """Returns the declared outputs; JSON answers do not carry types."""
        known = self._known.get(call.target)
        if known is None or call.signature not in known.signatures:
            known = self._metadata(call.target, seconds)
            self._known[call.target] = known
        if call.signature not in known.signatures:
            raise call_error(
                "FAILED_PRECONDITION",
                f'Serving signature key "{call.signature}" not found.',
            )
        return known.signatures[call.signature].outputs

    def _ask(self, request: wire_rest.HttpCall, seconds: float) -> bytes:
        try:
            response = self._pool.urlopen(
                request.method,
                self._prefix + request.path,
                request.body,
                self._headers,
                retries=_NO_RETRY,
                redirect=False,
                timeout=None,  # `limits` bounds the call.
                pool_timeout=limits.left(),
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            if self._closed:
                raise ClientClosedError("the client is closed") from error
            if time.monotonic() >= limits.ends:
                raise call_error(
                    "DEADLINE_EXCEEDED", f"no answer within {seconds:.3g} s"
                ) from error
            raise call_error(
                "UNAVAILABLE",
                f"{self._address}: {self._reason(error)}"
                + without_certificate(self._tls),
            ) from error
        if response.status != 200:
            raise wire_rest.read_error(response.status, response.data)
        return response.data

    def _reason(self, error: BaseException) -> str:
        """Returns the text of the innermost error."""
        while error.args and isinstance(error.args[-1], BaseException):
            error = error.args[-1]
        if isinstance(error, (TimeoutError, urllib3.exceptions.TimeoutError)):
            return f"no connection within {self._connect:.3g} s"
        if isinstance(error, ssl.SSLError):
            return f"TLS: {error.reason}"
        if type(error) is http.client.BadStatusLine:
            return "this is not HTTP: is it the gRPC port?"
        text = getattr(error, "strerror", None) or str(error)
        return text or type(error).__name__


class AsyncRestTransport:
    """The asynchronous transport: `RestTransport` in threads.

    A canceled call returns at once; its thread stays busy until the server
    answers or the call times out.
    """

    def __init__(self, *settings: Any) -> None:
        self._transport = RestTransport(*settings)
        self._threads = ThreadPoolExecutor(_THREADS, "muse-rest")

    async def send(self, call: Call[_T], seconds: float) -> _T:
        """As `Transport.send`; waiting for a thread counts as time."""
        loop = asyncio.get_running_loop()
        try:
            future = loop.run_in_executor(
                self._threads, self._transport.send, call, seconds
            )
        except RuntimeError as error:  # The threads were shut down.
            raise ClientClosedError("the client is closed") from error
        try:
            return await asyncio.wait_for(future, seconds)
        except asyncio.TimeoutError as error:
            raise call_error(
                "DEADLINE_EXCEEDED", f"no answer within {seconds:.3g} s"
            ) from error

    async def close(self) -> None:
        """As `RestTransport.close`."""
        self._transport.close()
        self._threads.shutdown(wait=False, cancel_futures=True)


def _split_url(url: str, tls: Tls | None) -> urllib3.util.Url:
    has_scheme = "://" in url
    whole = url if has_scheme else ("https://" if tls else "http://") + url
    if "@" in whole.partition("://")[2].partition("/")[0]:
        raise RequestError(
            "target", "not hold a password (use metadata)", "***"
        )
    try:
        parts = urllib3.util.parse_url(whole)
    except urllib3.exceptions.LocationParseError:
        parts = urllib3.util.Url()
    if (
        parts.scheme not in ("http", "https")
        or not parts.host
        or parts.port == 0
        or not (parts.port or has_scheme)
    ):
        raise RequestError(
            "target",
            "be host:port or http(s)://host:port, an IPv6 host in brackets",
            url,
        )
    if tls and parts.scheme == "http":
        raise RequestError("target", "be https with TLS settings", url)
    return parts
