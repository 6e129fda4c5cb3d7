"""Options for encrypted ports, and for calls to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from muse_tools.cli import output

if TYPE_CHECKING:
    from serving.client import Tls

__all__ = [
    "SslConfigFileOption",
    "TargetCaFileOption",
    "TargetCertificateFileOption",
    "TargetKeyFileOption",
    "TargetServerNameOption",
    "target_tls",
]

SslConfigFileOption = Annotated[
    str,
    typer.Option(
        "--ssl-config-file",
        help="TF Serving's ssl.config: key, certificate, clients' authority. "
        "A model server encrypts gRPC by it, a ranking service also REST.",
    ),
]
TargetCaFileOption = Annotated[
    str,
    typer.Option(
        "--target-ca-file",
        help="PEM file to trust model servers by; encrypts the calls to them.",
    ),
]
TargetCertificateFileOption = Annotated[
    str,
    typer.Option(
        "--target-certificate-file",
        help="PEM file that model servers know us by.",
    ),
]
TargetKeyFileOption = Annotated[
    str, typer.Option("--target-key-file", help="PEM file with its key.")
]
TargetServerNameOption = Annotated[
    str,
    typer.Option(
        "--target-server-name", help="Name in the model servers' certificates."
    ),
]


def target_tls(
    ca_file: str, certificate_file: str, key_file: str, server_name: str
) -> Tls | None:
    """Encryption of calls to model servers.

    Args:
        ca_file: of `--target-ca-file`; each of them may be empty.
        certificate_file: of `--target-certificate-file`.
        key_file: of `--target-key-file`.
        server_name: of `--target-server-name`.

    Returns:
        None, plain text, if none was given.

    Raises:
        BadParameter: a certificate without its key, or the reverse.
    """
    from serving.client import Tls

    if not (ca_file or certificate_file or key_file or server_name):
        return None
    with output.wrong_usage("--target-certificate-file"):
        return Tls(
            ca_file=ca_file or None,
            certificate_file=certificate_file or None,
            key_file=key_file or None,
            server_name=server_name or None,
        )
