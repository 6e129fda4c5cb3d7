"""Encryption, in one direction and in both."""

from __future__ import annotations

import pathlib
import shutil
import subprocess

import pytest

from serving.client import MuseClient, Retry, Tls, UnavailableError
from serving.server import ServerConfig, running

pytestmark = [
    pytest.mark.tf,
    pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl"),
]

ONCE = Retry(attempts=1)


def openssl(*arguments: str, folder: pathlib.Path) -> None:
    subprocess.run(
        ["openssl", *arguments], cwd=folder, check=True, capture_output=True
    )


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> pathlib.Path:
    """An authority, and certificates of a server and a client from it."""
    folder = tmp_path_factory.mktemp("tls")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl(
        *("req", "-x509", *key, "-subj", "/CN=test authority"),
        *("-keyout", "ca.key", "-out", "ca.pem", "-days", "2"),
        folder=folder,
    )
    for name in ("server", "client"):
        openssl(
            *("req", *key, "-subj", f"/CN={name}"),
            *("-keyout", f"{name}.key", "-out", f"{name}.csr"),
            folder=folder,
        )
        extensions = folder / f"{name}.ext"
        extensions.write_text("subjectAltName=DNS:muse.test,IP:127.0.0.1\n")
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem"),
            *("-CAkey", "ca.key", "-CAcreateserial", "-days", "2"),
            *("-extfile", extensions.name, "-out", f"{name}.pem"),
            folder=folder,
        )
    return folder


def served(base, certificates, tmp_path, verify: bool):
    def pem(name: str) -> str:
        return (certificates / name).read_text().replace("\n", "\\n")

    file = tmp_path / "ssl.config"
    file.write_text(
        f'server_key: "{pem("server.key")}"\n'
        f'server_cert: "{pem("server.pem")}"\n'
        f'custom_ca: "{pem("ca.pem")}"\n'
        f"client_verify: {str(verify).lower()}\n"
    )
    return running(
        ServerConfig(
            model_base_path=str(base),
            port=0,
            rest_api_port=-1,
            ssl_config_file=str(file),
        )
    )


def test_encrypted(muse_base, certificates, tmp_path):
    with served(muse_base, certificates, tmp_path, False) as app:
        tls = Tls(ca_file=certificates / "ca.pem")
        with MuseClient(app.grpc_target, tls=tls) as client:
            assert client.status()[0].state == "AVAILABLE"
        named = Tls(ca_file=certificates / "ca.pem", server_name="muse.test")
        with MuseClient(app.grpc_target, tls=named) as client:
            assert client.status()
        wrong = Tls(ca_file=certificates / "ca.pem", server_name="other.test")
        for settings in (wrong, Tls(), None):
            with MuseClient(
                app.grpc_target, tls=settings, retry=ONCE
            ) as client:
                with pytest.raises(UnavailableError):
                    client.status()


def test_mutual(muse_base, certificates, tmp_path):
    with served(muse_base, certificates, tmp_path, True) as app:
        known = Tls(
            ca_file=certificates / "ca.pem",
            certificate_file=certificates / "client.pem",
            key_file=certificates / "client.key",
        )
        with MuseClient(app.grpc_target, tls=known) as client:
            assert client.status()
        unknown = Tls(ca_file=certificates / "ca.pem")
        with MuseClient(app.grpc_target, tls=unknown, retry=ONCE) as client:
            with pytest.raises(UnavailableError):
                client.status()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.pem"):
        MuseClient("127.0.0.1:1", tls=Tls(ca_file=tmp_path / "nowhere.pem"))
