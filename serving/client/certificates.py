"""Certificates and keys of a client, read and checked."""

from __future__ import annotations

import pathlib
import ssl

from serving.client.errors import RequestError
from serving.client.settings import Tls

__all__ = ["ssl_context"]


def ssl_context(tls: Tls) -> ssl.SSLContext:
    """What a connection by HTTPS needs; gRPC reads the same files.

    Args:
        tls: whom to trust, and who the client is.

    Raises:
        RequestError: a file holds no certificate or key, or key and
            certificate do not fit.
        OSError: a file cannot be read.
    """
    for path in (tls.ca_file, tls.certificate_file, tls.key_file):
        if path is not None:
            pathlib.Path(path).read_bytes()  # Its error names the file.
    try:
        context = ssl.create_default_context(
            cafile=None if tls.ca_file is None else str(tls.ca_file)
        )
    except ssl.SSLError as error:
        raise RequestError(
            "ca_file", "hold certificates in PEM", str(tls.ca_file)
        ) from error
    if tls.certificate_file is not None and tls.key_file is not None:
        try:
            # Without a password OpenSSL would ask for one at the terminal.
            context.load_cert_chain(
                str(tls.certificate_file), str(tls.key_file), password=""
            )
        except ssl.SSLError as error:
            raise RequestError(
                "certificate_file",
                f"be PEM, with the key in {tls.key_file} that belongs to it",
                str(tls.certificate_file),
            ) from error
    return context
