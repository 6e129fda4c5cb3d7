"""Encryption of the service's own ports."""

from __future__ import annotations

from serving.tls import TlsFiles

__all__ = ["read_ssl_config"]


def read_ssl_config(path: str) -> TlsFiles | None:
    """Reads key, certificate and authority; returns none for no path.

    Raises:
        ValueError: they cannot be read, or cannot be used.
    """
    if not path:
        return None
    from serving.model_server.config_files import read_tls
    from serving.model_server.errors import StartupError

    try:
        return read_tls(path)
    except StartupError as error:
        raise ValueError(str(error)) from error
