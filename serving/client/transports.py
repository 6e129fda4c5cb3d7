"""Ways to a server: gRPC and REST, blocking.

A transport does one attempt of one call and turns whatever goes wrong into
`CallError`s. Retries are the client's business.
"""

from __future__ import annotations

import http.client
import ssl
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from serving.client import wire_grpc, wire_rest
from serving.client.certificates import ssl_context
from serving.client.channels import Channels, without_certificate
from serving.client.connections import Connections
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
        self._channels = Channels(
            address, timeouts, tls, metadata, wire_grpc.RESPONSES
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
            self._channels.call(wire_grpc.PREDICT, request, seconds)
        )

    def metadata(self, target: Target, seconds: float) -> ModelMetadata:
        """Asks for the signatures."""
        request = wire_grpc.metadata_request(target)
        return wire_grpc.read_metadata(
            self._channels.call(wire_grpc.METADATA, request, seconds)
        )

    def status(self, target: Target, seconds: float) -> list[VersionStatus]:
        """Asks for the states of the versions."""
        request = wire_grpc.status_request(target)
        return wire_grpc.read_status(
            self._channels.call(wire_grpc.STATUS, request, seconds)
        )

    def close(self) -> None:
        """Closes the channel; calls in flight end as CANCELLED."""
        self._channels.close()


class RestTransport:
    """Calls by HTTP, over kept connections that all threads share.

    At most so many are open as `CONNECTIONS` says; a call that finds none
    waits, within its time.

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
        given = url
        if "://" not in url:
            url = ("https://" if tls else "http://") + url
        try:
            parts = urllib.parse.urlsplit(url)
            # None is the usual port of a scheme, where one was given.
            is_whole = parts.port or (parts.port is None and given == url)
        except ValueError:
            parts, is_whole = urllib.parse.urlsplit(""), False
        if "@" in url.partition("://")[2].partition("/")[0]:
            raise RequestError(
                "target", "not hold a password (use metadata)", "***"
            )
        if parts.scheme not in ("http", "https") or not (
            is_whole and parts.hostname
        ):
            raise RequestError(
                "target",
                "be host:port or http(s)://host:port, an IPv6 host in brackets",
                given,
            )
        if tls and parts.scheme == "http":
            raise RequestError("target", "be https with TLS settings", url)
        self._prefix = parts.path.rstrip("/")
        self._tls = tls
        self._headers = {"Content-Type": "application/json", **metadata}
        self._connections = Connections(
            parts.hostname,
            parts.port,
            timeouts.connect,
            ssl_context(tls or Tls()) if parts.scheme == "https" else None,
            tls.server_name if tls else None,
        )
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
        ends = time.monotonic() + seconds
        call = wire_rest.predict_call(target, signature, inputs)
        specs = self._output_specs(target, signature, seconds)
        found = wire_rest.read_predict(self._send(call, seconds, ends), specs)
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
        """Closes the connections; calls in flight fail as closed."""
        self._connections.close()

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

    def _send(
        self, call: wire_rest.HttpCall, seconds: float, ends: float = 0.0
    ) -> bytes:
        ends = ends or time.monotonic() + seconds
        connections = self._connections
        try:
            status, body = connections.send(
                call.method,
                self._prefix + call.path,
                call.body,
                self._headers,
                ends,
            )
        except TimeoutError as error:
            raise call_error(
                "DEADLINE_EXCEEDED", f"no answer within {seconds:.3g} s"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            if connections.closed:
                raise ClientClosedError("the client is closed") from error
            text = getattr(error, "strerror", None) or str(error)
            if isinstance(error, ssl.SSLError):
                text = f"TLS: {error.reason}"
            raise call_error(
                "UNAVAILABLE",
                f"{connections.address}: {text or type(error).__name__}"
                + without_certificate(self._tls),
            ) from error
        if status != 200:
            raise wire_rest.read_error(status, body)
        return body
