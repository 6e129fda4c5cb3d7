"""Encryption of the service's own ports."""

from __future__ import annotations

import os
import ssl
import tempfile
from typing import TYPE_CHECKING

import grpc

if TYPE_CHECKING:
    from serving.server.config_files import TlsFiles

__all__ = ["grpc_credentials", "read_ssl_config", "ssl_context"]


def read_ssl_config(path: str) -> TlsFiles | None:
    """Reads key, certificate and authority.

    Args:
        path: text protobuf `SSLConfig`, as of the model server; or empty.

    Returns:
        None for no path.

    Raises:
        ValueError: it cannot be read.
    """
    if not path:
        return None
    from serving.server.config_files import read_tls
    from serving.server.errors import StartupError

    try:
        return read_tls(path)
    except StartupError as error:
        raise ValueError(str(error)) from error


def grpc_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Credentials of the gRPC port."""
    return grpc.ssl_server_credentials(
        [(files.key, files.certificate)],
        root_certificates=files.client_ca or None,
        require_client_auth=files.verify_client,
    )


def ssl_context(files: TlsFiles) -> ssl.SSLContext:
    """Credentials of the REST port.

    Raises:
        ValueError: a key or certificate is not PEM, or they do not fit.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    descriptor, path = tempfile.mkstemp()  # Read by its owner alone.
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(files.key + b"\n" + files.certificate)
        context.load_cert_chain(path)
        if files.verify_client:
            context.load_verify_locations(cadata=files.client_ca.decode())
            context.verify_mode = ssl.CERT_REQUIRED
    except ssl.SSLError as error:
        raise ValueError(
            f"ssl_config_file: key and certificates cannot be used: {error}"
        ) from error
    finally:
        os.unlink(path)
    return context
