"""Servers that the serving tests talk to.

The tests marked `conformance` run against the embedded server, or, when
`MUSE_TEST_GRPC` (host:port) and `MUSE_TEST_REST` (URL) are set, against a
server that was started by hand on the model that
`python -m tests.serving.toy_model DIR` writes, under the name `toy`:

    python -m pytest -m conformance tests/serving/model_server
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterator

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "conformance: asks any server of the toy model (see tests/serving)",
    )


@dataclasses.dataclass(frozen=True)
class Endpoint:
    grpc: str
    rest: str
    embedded: bool


@pytest.fixture(scope="session")
def toy_base(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    from tests.serving import toy_model

    base = tmp_path_factory.mktemp("toy")
    toy_model.export_toy(base, 1, bias=toy_model.BIAS)
    return base


@pytest.fixture(scope="session")
def toy(request: pytest.FixtureRequest) -> Iterator[Endpoint]:
    grpc, rest = os.getenv("MUSE_TEST_GRPC"), os.getenv("MUSE_TEST_REST")
    if bool(grpc) != bool(rest):
        pytest.fail("set both MUSE_TEST_GRPC and MUSE_TEST_REST, or neither")
    if grpc and rest:
        yield Endpoint(grpc, rest.rstrip("/"), False)
        return
    from serving.model_server import ServerConfig, running

    config = ServerConfig(
        model_name="toy",
        model_base_path=str(request.getfixturevalue("toy_base")),
        port=0,
        rest_api_port=0,
        rest_api_timeout_in_ms=2000,
        grpc_max_threads=5,  # One of them only polls.
        file_system_poll_wait_seconds=0,
    )
    with running(config) as app:
        yield Endpoint(app.grpc_target, app.rest_url, True)


@pytest.fixture(scope="session")
def muse_base(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    from tests.serving import toy_muse

    base = tmp_path_factory.mktemp("muse")
    toy_muse.export_toy_muse(base)
    return base


@pytest.fixture(scope="session")
def muse(muse_base: pathlib.Path) -> Iterator[Endpoint]:
    from serving.model_server import ServerConfig, running

    config = ServerConfig(
        model_base_path=str(muse_base), port=0, rest_api_port=0
    )
    with running(config) as app:
        yield Endpoint(app.grpc_target, app.rest_url, True)


@pytest.fixture(scope="session")
def models_config(
    muse_base: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """A `models.config` with a ranker and a retrieval model."""
    from tests.serving import toy_matching

    base = tmp_path_factory.mktemp("matching")
    toy_matching.export_toy_matching(base)
    models = "".join(
        f'config {{ name: "{name}" base_path: "{path}" }}'
        for name, path in (("muse", muse_base), ("matching", base))
    )
    file = base / "models.config"
    file.write_text(f"model_config_list {{ {models} }}")
    return file


@pytest.fixture(scope="session")
def muse_and_matching(models_config: pathlib.Path) -> Iterator[Endpoint]:
    """Both models, served from a `models.config`."""
    from serving.model_server import ServerConfig, running

    config = ServerConfig(
        model_config_file=str(models_config), port=0, rest_api_port=0
    )
    with running(config) as app:
        yield Endpoint(app.grpc_target, app.rest_url, True)
