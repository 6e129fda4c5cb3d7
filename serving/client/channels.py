"""gRPC channels, blocking and for event loops."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import grpc

from serving.client.certificates import ssl_context
from serving.client.errors import CallError, RequestError, call_error
from serving.client.memory import keep_freed_memory
from serving.client.settings import Timeouts, Tls

__all__ = ["call_metadata", "channel_opener", "failed_call"]


def channel_opener(
    kind: Any, address: str, timeouts: Timeouts, tls: Tls | None
) -> Callable[[], Any]:
    """A function that opens a channel, with everything checked and read.

    Args:
        kind: the module `grpc` or `grpc.aio`.
        address: `host:port`.
        timeouts: limits.
        tls: encryption; None is plain text.

    Raises:
        RequestError: the address is a URL, or certificates and key cannot be
            used.
        OSError: a certificate or key cannot be read.
    """
    if "://" in address:
        raise RequestError("target", "be host:port for gRPC", address)
    keep_freed_memory()
    options: list[tuple[str, Any]] = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        # The least time a connection attempt is given.
        ("grpc.min_reconnect_backoff_ms", int(timeouts.connect * 1000)),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
    ]
    if tls is None:
        return functools.partial(kind.insecure_channel, address, options)
    ssl_context(tls)  # gRPC would take any file, and fail later.
    if tls.server_name:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return functools.partial(
        kind.secure_channel, address, _channel_credentials(tls), options
    )


def call_metadata(metadata: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """What gRPC sends with a call; its names are in lower case."""
    return tuple((name.lower(), value) for name, value in metadata.items())


def failed_call(error: grpc.RpcError, closed: bool) -> CallError:
    """What a failed call means.

    A call that a server cancels, and nobody here, was dropped by one that
    stops: it is unavailable.

    Args:
        error: gRPC's.
        closed: whether the client was closed.
    """
    code = error.code().name
    if code == "CANCELLED" and not closed:
        code = "UNAVAILABLE"
    return call_error(code, error.details() or "")


def _channel_credentials(tls: Tls) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        root_certificates=_read(tls.ca_file),
        private_key=_read(tls.key_file),
        certificate_chain=_read(tls.certificate_file),
    )


def _read(path: str | pathlib.Path | None) -> bytes | None:
    return None if path is None else pathlib.Path(path).read_bytes()
