"""One small world, exported once for all tests here."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serving.export.kinds import Kinds, make_kinds
from tests.serving.export.world import World, make_world

tf = pytest.importorskip("tensorflow")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test here: an export needs TensorFlow, and its time."""
    for item in items:
        if Path(__file__).parent in Path(item.path).parents:
            item.add_marker(pytest.mark.tf)
            if not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Return the exported world."""
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Kinds:
    """Return the exported toy with features of every kind."""
    return make_kinds(tmp_path_factory.mktemp("kinds"))


@pytest.fixture(scope="session")
def gpu_kernels() -> Any:
    """Return `scripts/gpu_kernels.py`, which writes a table of the docs."""
    root = Path(__file__).resolve().parents[3]
    spec = importlib.util.spec_from_file_location(
        "gpu_kernels", root / "scripts" / "gpu_kernels.py"
    )
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@pytest.fixture(scope="session")
def server(world: World) -> Iterator[Any]:
    """Return a server of the world's export."""
    from serving.model_server import ServerConfig, running

    config = ServerConfig(
        model_base_path=str(world.export.path.parent), port=0, rest_api_port=0
    )
    with running(config) as app:
        yield app


@pytest.fixture(scope="session")
def kinds_server(
    kinds: Kinds, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """Return the addresses of a server of that toy, by transport."""
    from serving.model_server import ServerConfig, running

    base = tmp_path_factory.mktemp("exported")
    (base / "1").symlink_to(Path(kinds.export.path))
    config = ServerConfig(model_base_path=str(base), port=0, rest_api_port=0)
    with running(config) as app:
        yield {"grpc": app.grpc_target, "rest": app.rest_url}
