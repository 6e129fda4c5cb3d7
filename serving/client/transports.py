"""Ways to a server: gRPC and REST, blocking.

A transport does one attempt of one call and turns whatever goes wrong into
`CallError`s. Retries are the client's business.
"""

from __future__ import annotations

import http.client
import ssl
import threading
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import grpc
import numpy as np

from serving.client import messages, wire_grpc, wire_rest
from serving.client.certificates import ssl_context
from serving.client.channels import (
    call_metadata,
    channel_opener,
    failed_call,
)
from serving.client.errors import (
    ClientClosedError,
    RequestError,
    call_error,
)
from serving.client.settings import Timeouts, Tls
from serving.client.types import ModelMetadata, VersionStatus
from serving.client.wire_grpc import Target

__all__ = ["GrpcTransport", "RestTransport", "Transport"]


class Transport(Protocol):
    """What a client needs of a transport.

    `seconds` is the time that an attempt may take.
    """

    def predict(
        self,
        target: Target,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        seconds: float,
    ) -> dict[str, np.ndarray]:
        """Runs a signature."""
        ...

    def metadata(self, target: Target, seconds: float) -> ModelMetadata:
        """Asks for the signatures."""
        ...

    def status(self, target: Target, seconds: float) -> list[VersionStatus]:
        """Asks for the states of the versions."""
        ...

    def close(self) -> None:
        """Frees connections."""
        ...


class GrpcTransport:
    """Calls by gRPC, over one channel.

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
        self._channel = channel_opener(grpc, address, timeouts, tls)()
        self._closed = False
        self._metadata = call_metadata(metadata)
        self._predict = self._channel.unary_unary(
            wire_grpc.PREDICT,  # the request comes as bytes
            response_deserializer=messages.PredictResponse.FromString,
        )
        self._get_metadata = self._method(
            wire_grpc.METADATA, messages.GetModelMetadataResponse
        )
        self._get_status = self._method(
            wire_grpc.STATUS, messages.GetModelStatusResponse
        )

    def predict(
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
            self._call(self._predict, request, seconds)
        )

    def metadata(self, target: Target, seconds: float) -> ModelMetadata:
        """Asks for the signatures."""
        request = wire_grpc.metadata_request(target)
        return wire_grpc.read_metadata(
            self._call(self._get_metadata, request, seconds)
        )

    def status(self, target: Target, seconds: float) -> list[VersionStatus]:
        """Asks for the states of the versions."""
        request = wire_grpc.status_request(target)
        return wire_grpc.read_status(
            self._call(self._get_status, request, seconds)
        )

    def close(self) -> None:
        """Closes the channel; calls in flight end as CANCELLED."""
        self._closed = True
        self._channel.close()

    def _method(self, path: str, response: Any) -> Callable[..., Any]:
        return self._channel.unary_unary(
            path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )

    def _call(
        self, method: Callable[..., Any], request: Any, seconds: float
    ) -> Any:
        try:
            return method(request, timeout=seconds, metadata=self._metadata)
        except grpc.RpcError as error:
            raise failed_call(error, self._closed) from None
        except ValueError as error:  # what grpc raises on a closed channel
            raise ClientClosedError("the client is closed") from error


class RestTransport:
    """Calls by HTTP, over one kept connection per thread.

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
        if "://" not in url:
            url = ("https://" if tls else "http://") + url
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RequestError("target", "be http(s)://host:port", url)
        if parts.username or parts.password:
            raise RequestError(
                "target", "not hold a password (use metadata)", "***"
            )
        if tls and parts.scheme == "http":
            raise RequestError("target", "be https with TLS settings", url)
        self._host = parts.hostname
        self._port = parts.port
        self._prefix = parts.path.rstrip("/")
        self._context = (
            ssl_context(tls or Tls()) if parts.scheme == "https" else None
        )
        self._server_name = tls.server_name if tls else None
        self._timeouts = timeouts
        self._headers = {
            "Content-Type": "application/json",
            **metadata,
        }
        self._local = threading.local()
        self._open: set[http.client.HTTPConnection] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._known: dict[tuple[Any, ...], ModelMetadata] = {}

    def predict(
        self,
        target: Target,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        seconds: float,
    ) -> dict[str, np.ndarray]:
        """Runs a signature; `outputs` are chosen after the answer came."""
        call = wire_rest.predict_call(target, signature, inputs)
        specs = self._output_specs(target, signature, seconds)
        found = wire_rest.read_predict(self._send(call, seconds), specs)
        missing = [name for name in outputs if name not in found]
        if missing:
            raise call_error(
                "INVALID_ARGUMENT",
                f"output tensor alias not found in signature: {missing[0]} "
                f"Outputs expected to be in the set "
                f"{{{','.join(sorted(found))}}}.",
            )
        return {name: found[name] for name in outputs or found}

    def metadata(self, target: Target, seconds: float) -> ModelMetadata:
        """Asks for the signatures."""
        body = self._send(wire_rest.metadata_call(target), seconds)
        return wire_rest.read_metadata(body)

    def status(self, target: Target, seconds: float) -> list[VersionStatus]:
        """Asks for the states of the versions."""
        body = self._send(wire_rest.status_call(target), seconds)
        return wire_rest.read_status(body)

    def close(self) -> None:
        """Closes the connections of all threads."""
        with self._lock:
            self._closed = True
            connections, self._open = self._open, set()
        for connection in connections:
            connection.close()

    def _output_specs(
        self, target: Target, signature: str, seconds: float
    ) -> Mapping[str, Any]:
        """Declared outputs; JSON answers do not carry their types."""
        key = (target.model, target.version, target.label)
        known = self._known.get(key)
        if known is None or signature not in known.signatures:
            known = self._known[key] = self.metadata(target, seconds)
        if signature not in known.signatures:
            raise call_error(
                "FAILED_PRECONDITION",
                f'Serving signature key "{signature}" not found.',
            )
        return known.signatures[signature].outputs

    def _send(self, call: wire_rest.HttpCall, seconds: float) -> bytes:
        connection = self._connection()
        try:
            if connection.sock is None:
                connection.timeout = min(self._timeouts.connect, seconds)
                connection.connect()
            connection.sock.settimeout(seconds)
            connection.request(
                call.method,
                self._prefix + call.path,
                call.body,
                self._headers,
            )
            response = connection.getresponse()
            body = response.read()
        except TimeoutError as error:
            self._drop(connection)
            raise call_error(
                "DEADLINE_EXCEEDED", f"no answer within {seconds:.3g} s"
            ) from error
        except ssl.SSLError as error:
            self._drop(connection)
            raise call_error("UNAVAILABLE", f"TLS: {error.reason}") from error
        except (OSError, http.client.HTTPException) as error:
            self._drop(connection)
            text = getattr(error, "strerror", None) or str(error)
            raise call_error(
                "UNAVAILABLE",
                f"{self._host}:{self._port}: {text or type(error).__name__}",
            ) from error
        except AttributeError as error:  # closed by another thread
            raise ClientClosedError("the client is closed") from error
        if response.status != 200:
            raise wire_rest.read_error(response.status, body)
        return body

    def _connection(self) -> http.client.HTTPConnection:
        with self._lock:
            if self._closed:
                raise ClientClosedError("the client is closed")
        connection = getattr(self._local, "connection", None)
        if connection is None:
            if self._context is None:
                connection = http.client.HTTPConnection(self._host, self._port)
            else:
                connection = _NamedHttps(
                    self._host, self._port, self._context, self._server_name
                )
            self._local.connection = connection
            with self._lock:
                self._open.add(connection)
        return connection

    def _drop(self, connection: http.client.HTTPConnection) -> None:
        connection.close()
        self._local.connection = None
        with self._lock:
            self._open.discard(connection)


class _NamedHttps(http.client.HTTPSConnection):
    """A connection whose server is known by another name than its host.

    Args:
        host: where it is.
        port: where it is.
        context: whom to trust.
        name: in the server's certificate; None is the host's.
    """

    def __init__(
        self,
        host: str,
        port: int | None,
        context: ssl.SSLContext,
        name: str | None,
    ) -> None:
        """Keeps the settings; see the class for the arguments."""
        super().__init__(host, port, context=context)
        self._tls = context
        self._name = name or host

    def connect(self) -> None:
        """Connects and encrypts."""
        http.client.HTTPConnection.connect(self)
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._name)
