"""Encryption, in one direction and in both."""

from __future__ import annotations

import asyncio
import pathlib
import shutil

import pytest

from serving.client import (
    AsyncMuseClient,
    MuseClient,
    Retry,
    Tls,
    UnavailableError,
)
from serving.server import ServerConfig, running
from tests.serving.certificates import make_certificates, ssl_config

pytestmark = [
    pytest.mark.tf,
    pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl"),
]

ONCE = Retry(attempts=1)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> pathlib.Path:
    return make_certificates(tmp_path_factory.mktemp("tls"))


def served(base, certificates, tmp_path, verify: bool):
    file = ssl_config(certificates, tmp_path, verify)
    return running(
        ServerConfig(
            model_base_path=str(base),
            port=0,
            rest_api_port=-1,
            ssl_config_file=str(file),
        )
    )


def state(kind: str, target: str, tls: Tls | None) -> str:
    """What the server says about its version, asked once."""
    if kind == "sync":
        with MuseClient(target, tls=tls, retry=ONCE) as client:
            return client.status()[0].state

    async def ask() -> str:
        async with AsyncMuseClient(target, tls=tls, retry=ONCE) as client:
            return (await client.status())[0].state

    return asyncio.run(ask())


@pytest.fixture(scope="module")
def encrypted(muse_base, certificates, tmp_path_factory):
    folder = tmp_path_factory.mktemp("encrypted")
    with served(muse_base, certificates, folder, False) as app:
        yield app.grpc_target


@pytest.fixture(scope="module")
def mutual(muse_base, certificates, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mutual")
    with served(muse_base, certificates, folder, True) as app:
        yield app.grpc_target


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_encrypted(encrypted, certificates, kind):
    ca = certificates / "ca.pem"
    assert state(kind, encrypted, Tls(ca_file=ca)) == "AVAILABLE"
    named = Tls(ca_file=ca, server_name="muse.test")
    assert state(kind, encrypted, named) == "AVAILABLE"
    wrong = Tls(ca_file=ca, server_name="other.test")
    for settings in (wrong, Tls(), None):
        with pytest.raises(UnavailableError):
            state(kind, encrypted, settings)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_mutual(mutual, certificates, kind):
    known = Tls(
        ca_file=certificates / "ca.pem",
        certificate_file=certificates / "client.pem",
        key_file=certificates / "client.key",
    )
    assert state(kind, mutual, known) == "AVAILABLE"
    with pytest.raises(UnavailableError):
        state(kind, mutual, Tls(ca_file=certificates / "ca.pem"))


def test_a_missing_file_is_named(tmp_path):
    tls = Tls(ca_file=tmp_path / "nowhere.pem")
    for client in (MuseClient, AsyncMuseClient):
        with pytest.raises(FileNotFoundError, match="nowhere.pem"):
            client("127.0.0.1:1", tls=tls)
