"""One model and one data set for all tests here."""

from __future__ import annotations

import pathlib

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test here: an export needs TensorFlow."""
    for item in items:
        if pathlib.Path(__file__).parent in pathlib.Path(item.path).parents:
            item.add_marker(pytest.mark.tf)


@pytest.fixture(scope="session")
def explored(tmp_path_factory: pytest.TempPathFactory):
    """The explorer, the Keras model, the item table and the users."""
    import types

    from muse_tools import explore
    from tests.muse_tools.explore import world

    folder = tmp_path_factory.mktemp("explored")
    model, table = world.export_model(folder)
    users = world.write_data(folder / "data", table)
    loaded = explore.ExplainedModel(folder / "muse")
    data = explore.ExplorerData(folder / "data")
    return types.SimpleNamespace(
        folder=folder,
        explorer=explore.Explorer(loaded, data),
        loaded=loaded,
        model=model,
        table=table,
        users=users,
    )


@pytest.fixture(scope="session")
def url(explored):
    """Address of a running explorer."""
    from muse_tools.explore import ExplorerApp
    from serving.background import in_background

    with in_background(ExplorerApp(explored.explorer), "explorer") as app:
        yield app.url
