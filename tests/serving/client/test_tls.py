"""Encryption, in one direction and in both, by clients and commands."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import pathlib
import shutil
import ssl

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from muse_tools.cli.commands import app as muse_command
from serving.client import (
    AsyncMuseClient,
    MuseClient,
    RankRequest,
    RequestError,
    Retry,
    Tls,
    UnavailableError,
)
from serving.model_server import ServerConfig, StartupError, running
from serving.stores import Layout, open_store
from tests.serving import toy_muse
from tests.serving.certificates import make_certificates, ssl_config
from tests.serving.relay import Relay

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


def known_client(certificates) -> Tls:
    return Tls(
        ca_file=certificates / "ca.pem",
        certificate_file=certificates / "client.pem",
        key_file=certificates / "client.key",
    )


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
    known = known_client(certificates)
    assert state(kind, mutual, known) == "AVAILABLE"
    with pytest.raises(UnavailableError, match="needs certificate_file"):
        state(kind, mutual, Tls(ca_file=certificates / "ca.pem"))
    with pytest.raises(UnavailableError) as error:
        state(kind, mutual, None)
    assert "certificate_file" not in str(error.value)


@pytest.fixture(scope="module")
def https(muse, certificates):
    """REST behind a proxy that encrypts it and asks for certificates."""
    context = ssl.create_default_context(
        ssl.Purpose.CLIENT_AUTH, cafile=str(certificates / "ca.pem")
    )
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(
        certificates / "server.pem", certificates / "server.key"
    )
    relay = Relay(muse.rest.removeprefix("http://"), context)
    with contextlib.closing(relay):
        yield relay.address


@pytest.mark.parametrize("change", [{}, {"server_name": "muse.test"}])
def test_rest_through_an_encrypting_proxy(https, certificates, change):
    known = dataclasses.replace(known_client(certificates), **change)
    request = RankRequest(
        1, [3, 6], [3, 4], {"profile_1": 9}, {"category": [1, 0]}
    )
    with MuseClient(https, "rest", tls=known, retry=ONCE) as client:
        np.testing.assert_allclose(
            client.rank(request).click_probability,
            toy_muse.expected_score(request),
            rtol=1e-5,
        )


@pytest.mark.parametrize(
    "change",
    [
        {"server_name": "other.test"},
        {"ca_file": None},
        {"certificate_file": None, "key_file": None},
    ],
    ids=["name", "authority", "client"],
)
def test_rest_and_grpc_refuse_the_same(https, mutual, certificates, change):
    tls = dataclasses.replace(known_client(certificates), **change)
    for target, transport in ((https, "rest"), (mutual, "grpc")):
        with MuseClient(target, transport, tls=tls, retry=ONCE) as client:
            with pytest.raises(UnavailableError):
                client.status()


@pytest.mark.parametrize("transport", ["grpc", "rest"])
def test_files_that_cannot_be_used_are_named(certificates, tmp_path, transport):
    ca = certificates / "ca.pem"
    pair = {
        "certificate_file": certificates / "client.pem",
        "key_file": certificates / "server.key",
    }
    text = tmp_path / "text"
    text.write_text("no certificate")
    cases = [
        (Tls(ca_file=tmp_path / "nowhere.pem"), OSError, "nowhere.pem"),
        (Tls(ca_file=text), RequestError, "`ca_file` must hold"),
        (Tls(ca_file=ca, **pair), RequestError, "that belongs to it"),
    ]
    for tls, error, words in cases:
        for client in (MuseClient, AsyncMuseClient):
            with pytest.raises(error, match=words):
                client("127.0.0.1:1", transport, tls=tls)


def test_server_files_that_do_not_fit_are_named(
    muse_base, certificates, tmp_path
):
    swapped = tmp_path / "swapped"
    shutil.copytree(certificates, swapped)
    shutil.copy(certificates / "client.key", swapped / "server.key")
    with pytest.raises(StartupError, match="ssl.config: .* cannot be used"):
        with served(muse_base, swapped, tmp_path, False):
            pass


@pytest.fixture
def commands(tmp_path) -> dict[str, list[str]]:
    """Every command that calls a model server, but for its address."""
    request = {
        "user_id": 5,
        "user": {"profile_1": 1},
        "behavior_item_ids": [3, 3],
        "behaviors": {"category": [1, 1]},
        "candidate_item_ids": [3, 4],
    }
    (tmp_path / "request.json").write_text(json.dumps(request))
    vectors = pa.array([[1.0] * toy_muse.DIM], pa.list_(pa.float32()))
    items = pa.table({"item_id": [7], "embedding": vectors})
    pq.write_table(items, tmp_path / "items.parquet")
    store = f"lmdb:{tmp_path}/store"
    with open_store(store, Layout()) as opened:
        opened.append(1, [7, 11])
    return {
        "rank": ["rank", "--request", str(tmp_path / "request.json")],
        "items": ["items", "push", str(tmp_path / "items.parquet")],
        "store": ["store", "rows", "--store", store],
    }


@pytest.mark.parametrize("name", ["rank", "items", "store"])
def test_commands_call_encrypted_servers(mutual, certificates, commands, name):
    def run(**files: str):
        options = [
            part
            for option, file in files.items()
            for part in (f"--target-{option.replace('_', '-')}", file)
        ]
        return CliRunner().invoke(
            muse_command,
            [*commands[name], "--target", mutual, *options],
        )

    ca = {"ca_file": str(certificates / "ca.pem")}
    known = {
        **ca,
        "certificate_file": str(certificates / "client.pem"),
        "key_file": str(certificates / "client.key"),
    }
    done = run(**known)
    if name == "items":  # The toy model takes none: it was asked.
        assert "fresh items" in done.stderr, done.output
    else:
        assert done.exit_code == 0, done.output
    done = run(**known, server_name="other.test")
    assert done.exit_code == 1 and "no server answers" in done.stderr
    plain, unknown = run(), run(**ca)
    for done in (plain, unknown):
        assert done.exit_code == 1 and "no server answers" in done.stderr
    assert "needs --target-ca-file" in plain.stderr
    assert "needs --target-ca-file" not in unknown.stderr
    done = run(key_file=known["key_file"])
    assert done.exit_code == 2 and "go together" in done.stderr
    done = run(ca_file="nowhere.pem")
    assert done.exit_code == 1 and "nowhere.pem" in done.stderr


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--target-ca-file", "ca.pem"], 2, "belong to --with-ranking and"),
        (
            ["--with-ranking", "--ssl-config-file", "ssl.config"],
            2,
            "need --target-ca-file",
        ),
        (
            ["--ssl-config-file", "nowhere.config"],
            1,
            "error: nowhere.config: cannot be",
        ),
    ],
)
def test_what_serve_refuses(muse_base, options, code, words):
    done = CliRunner().invoke(
        muse_command,
        ["serve", "--model-base-path", str(muse_base), *options],
    )
    assert done.exit_code == code and words in done.stderr
