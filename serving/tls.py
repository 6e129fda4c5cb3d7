"""Encryption of a server's ports."""

from __future__ import annotations

import dataclasses
import os
import ssl
import tempfile

import grpc

__all__ = ["TlsFiles", "grpc_credentials", "ssl_context"]


@dataclasses.dataclass(frozen=True)
class TlsFiles:
    """Contents of an `SSLConfig`.

    Attributes:
        key: private key, PEM.
        certificate: certificate chain, PEM.
        client_ca: certificates that sign clients, PEM; may be empty.
        verify_client: refuse clients without a certificate.
    """

    key: bytes = dataclasses.field(repr=False)
    certificate: bytes
    client_ca: bytes
    verify_client: bool


def grpc_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Credentials of a gRPC port."""
    return grpc.ssl_server_credentials(
        [(files.key, files.certificate)],
        root_certificates=files.client_ca or None,
        require_client_auth=files.verify_client,
    )


def ssl_context(files: TlsFiles) -> ssl.SSLContext:
    """Credentials of a REST port.

    Raises:
        ValueError: a key or certificate is not PEM, or they do not fit.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    descriptor, path = tempfile.mkstemp()  # Read by its owner alone.
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(files.key + b"\n" + files.certificate)
        # Without a password OpenSSL would ask for one at the terminal.
        context.load_cert_chain(path, password="")
        if files.verify_client:
            context.load_verify_locations(cadata=files.client_ca.decode())
            context.verify_mode = ssl.CERT_REQUIRED
    except ssl.SSLError as error:
        raise ValueError(
            f"key and certificates cannot be used: {error}"
        ) from error
    finally:
        os.unlink(path)
    return context
