"""One small world, exported once for all tests here."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serving.export.world import (
    MAX_HISTORY,
    SPARE_ROWS,
    World,
    make_item_table,
    make_model,
    make_requests,
    make_transform_output,
    read_vocabularies,
    to_example,
)

tf = pytest.importorskip("tensorflow")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test here: an export needs TensorFlow."""
    for item in items:
        if Path(__file__).parent in Path(item.path).parents:
            item.add_marker(pytest.mark.tf)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Return the exported world."""
    from serving.export import UserCacheConfig, export_saved_model

    folder = tmp_path_factory.mktemp("world")
    item_table = make_item_table(folder / "table")
    requests = make_requests(item_table, 40, seed=5)
    transform_output = make_transform_output(requests, folder)
    vocabularies = read_vocabularies(transform_output)
    model = make_model("muse", item_table, vocabularies, SPARE_ROWS)
    export = export_saved_model(
        folder / "muse" / "1",
        model=model,
        item_table=item_table,
        vocabularies=vocabularies,
        max_history=MAX_HISTORY,
        transform_output=transform_output,
        warmup_examples=[to_example(r) for r in requests[:2]],
        source={"run": "test"},
        user_cache=UserCacheConfig(users=16, ways=4, max_length=1100),
    )
    return World(
        item_table=item_table,
        model=model,
        vocabularies=vocabularies,
        transform_output=transform_output,
        export=export,
        loaded=tf.saved_model.load(str(export.path)),
    )


@pytest.fixture(scope="session")
def server(world: World) -> Iterator[Any]:
    """Return a server of the world's export."""
    from serving.server import ServerConfig, running

    config = ServerConfig(
        model_base_path=str(world.export.path.parent), port=0, rest_api_port=0
    )
    with running(config) as app:
        yield app
