"""A real ranker with a user cache, a toy matching model and an LMDB store."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from serving.client import RankRequest

HERE = pathlib.Path(__file__).parent
USERS = 30


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a model."""
    for item in items:
        needs = set(getattr(item, "fixturenames", ()))
        if HERE in pathlib.Path(item.path).parents and "site" in needs:
            item.add_marker(pytest.mark.tf)


@dataclasses.dataclass(frozen=True)
class Site:
    """What the tests share.

    Attributes:
        model_server: `host:port` of gRPC.
        rest: URL of the model server's REST.
        store: URL of the store.
        requests: user and history of each user in the store, and candidates.
        world: the ranker behind it.
    """

    model_server: str
    rest: str
    store: str
    requests: list[RankRequest]
    world: Any

    def request(self, shortest: int = 1) -> RankRequest:
        """A user with at least so many behaviours."""
        return next(
            r for r in self.requests if len(r.behavior_item_ids) >= shortest
        )


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Serves both models from this process."""
    from serving.export import UserCacheConfig, export_saved_model
    from serving.server import ServerConfig, running
    from tests.serving import toy_matching
    from tests.serving.export import world as worlds

    folder = tmp_path_factory.mktemp("service")
    table = worlds.make_item_table(folder / "table")
    raw = worlds.make_requests(table, USERS, seed=11)
    transform_output = worlds.make_transform_output(raw, folder)
    vocabularies = worlds.read_vocabularies(transform_output)
    model = worlds.make_model("muse", table, vocabularies, 8)
    export = export_saved_model(
        folder / "muse" / "1",
        model=model,
        item_table=table,
        vocabularies=vocabularies,
        max_history=worlds.MAX_HISTORY,
        transform_output=transform_output,
        source={"run": "test"},
        user_cache=UserCacheConfig(users=64, ways=4, max_length=1100),
    )
    toy_matching.export_toy_matching(folder / "matching")
    models = "".join(
        f'config {{ name: "{name}" base_path: "{folder / name}" }}'
        for name in ("muse", "matching")
    )
    file = folder / "models.config"
    file.write_text(f"model_config_list {{ {models} }}")
    requests = [
        RankRequest(
            user_id=1000 + index,
            user_profile=one["user_profile"],
            behavior_item_ids=one["behavior_item_ids"],
            behavior_category_ids=one["behavior_category_ids"],
            candidate_item_ids=one["candidate_item_ids"],
        )
        for index, one in enumerate(map(without_padding, raw))
    ]
    store = f"lmdb:{folder / 'store'}"
    fill(store, requests)
    config = ServerConfig(model_config_file=str(file), port=0, rest_api_port=0)
    with running(config) as app:
        yield Site(
            model_server=app.grpc_target,
            rest=app.rest_url,
            store=store,
            requests=requests,
            world=worlds.World(
                item_table=table,
                model=model,
                vocabularies=vocabularies,
                transform_output=transform_output,
                export=export,
                loaded=None,
            ),
        )


def without_padding(request: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A store keeps no padding, and a client sends none as a candidate."""
    real = request["behavior_item_ids"] != 0
    return {
        **request,
        "behavior_item_ids": request["behavior_item_ids"][real],
        "behavior_category_ids": request["behavior_category_ids"][real],
    }


def fill(url: str, requests: list[RankRequest]) -> None:
    """Writes users into a store."""
    from serving.stores import open_store

    with open_store(url) as store:
        for request in requests:
            store.set_profile(request.user_id, request.user_profile)
            if len(request.behavior_item_ids):
                store.append(
                    request.user_id,
                    request.behavior_item_ids,
                    request.behavior_category_ids,
                )


def settings(site: Site, **changes: Any) -> dict[str, Any]:
    """Settings of a service at the site, with time enough for anything."""
    return {
        "store": site.store,
        "targets": (site.model_server,),
        "port": 0,
        "rest_port": 0,
        "deadline_ms": 8000,
        "log_requests": False,
        "poll_seconds": 60,
        **changes,
    }


@pytest.fixture(scope="session")
def service(site: Site) -> Iterator[Any]:
    """A service at the site, with its ports."""
    from serving.service import ServiceConfig, running_service

    with running_service(ServiceConfig(**settings(site))) as app:
        yield app
