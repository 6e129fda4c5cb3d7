"""Certificates of a server and a client, and a server's `SSLConfig`."""

from __future__ import annotations

import pathlib
import subprocess


def make_certificates(folder: pathlib.Path) -> pathlib.Path:
    """An authority, and certificates of a server and a client from it."""
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl(
        *("req", "-x509", *key, "-subj", "/CN=test authority"),
        *("-keyout", "ca.key", "-out", "ca.pem", "-days", "2"),
        *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
        folder=folder,
    )
    for name in ("server", "client"):
        openssl(
            *("req", *key, "-subj", f"/CN={name}"),
            *("-keyout", f"{name}.key", "-out", f"{name}.csr"),
            folder=folder,
        )
        extensions = folder / f"{name}.ext"
        extensions.write_text(
            "subjectAltName=DNS:muse.test,IP:127.0.0.1\n"
            "authorityKeyIdentifier=keyid\n"
        )
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem"),
            *("-CAkey", "ca.key", "-CAcreateserial", "-days", "2"),
            *("-extfile", extensions.name, "-out", f"{name}.pem"),
            folder=folder,
        )
        check_strictly(folder, name)
    return folder


def check_strictly(folder: pathlib.Path, name: str) -> None:
    """Checks a certificate as Python 3.13 and later do."""
    openssl(
        *("verify", "-x509_strict", "-CAfile", "ca.pem", f"{name}.pem"),
        folder=folder,
    )


def ssl_config(
    certificates: pathlib.Path, folder: pathlib.Path, verify: bool
) -> pathlib.Path:
    """Writes the server's settings."""

    def pem(name: str) -> str:
        return (certificates / name).read_text().replace("\n", "\\n")

    file = folder / "ssl.config"
    file.write_text(
        f'server_key: "{pem("server.key")}"\n'
        f'server_cert: "{pem("server.pem")}"\n'
        f'custom_ca: "{pem("ca.pem")}"\n'
        f"client_verify: {str(verify).lower()}\n"
    )
    return file


def openssl(*arguments: str, folder: pathlib.Path) -> None:
    subprocess.run(
        ["openssl", *arguments], cwd=folder, check=True, capture_output=True
    )
