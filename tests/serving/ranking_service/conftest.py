"""Toy models with a real user cache, real servers and an LMDB store."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from serving.client import RankRequest
from tests.serving import toy_store

HERE = pathlib.Path(__file__).parent
USERS = 20


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
    """

    model_server: str
    rest: str
    store: str
    requests: list[RankRequest]

    def request(self, shortest: int = 1) -> RankRequest:
        """A user with at least so many behaviors."""
        return next(
            r for r in self.requests if len(r.behavior_item_ids) >= shortest
        )


@pytest.fixture(scope="session")
def site(
    muse_and_matching: Any, tmp_path_factory: pytest.TempPathFactory
) -> Site:
    """Users in a store, and both models."""
    rng = np.random.default_rng(11)
    requests = []
    for index in range(USERS):
        length = int(rng.integers(1, 40)) if index else 0
        requests.append(
            RankRequest(
                user_id=1000 + index,
                user=toy_store.user(rng.integers(0, 90, 5)),
                behavior_item_ids=rng.integers(1, 20, length),
                behaviors={"category": rng.integers(0, 40, length)},
                candidate_item_ids=rng.integers(1, 20, int(rng.integers(1, 9))),
            )
        )
    store = f"lmdb:{tmp_path_factory.mktemp('service') / 'store'}"
    fill(store, requests)
    return Site(muse_and_matching.grpc, muse_and_matching.rest, store, requests)


def fill(url: str, requests: list[RankRequest]) -> None:
    """Writes users into a store."""
    from serving.stores import open_store

    with open_store(url, toy_store.LAYOUT) as store:
        for request in requests:
            store.append(
                request.user_id,
                request.behavior_item_ids,
                request.behaviors,
                request.user,
            )


# For tests of what comes from the cache, however busy the machine is.
UNHURRIED = {
    "prefetch_timeout_ms": 6000,
    "stage_budget_ms": dict.fromkeys(
        ("prefetch", "rank_cached", "rank_full"), 6000
    ),
}


# Time enough for a busy machine.
BUDGETS = {
    "store_read_newest": 2000,
    "matching": 3000,
    "prefetch": 3000,
    "rank_cached": 3000,
    "rank_full": 3000,
    "rank_shortened": 500,
    "rank_no_history": 500,
}


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
        "prefetch_timeout_ms": 1500,
        "stage_budget_ms": BUDGETS,
        "drain_seconds": 3,
        **changes,
    }


@pytest.fixture(scope="session")
def service(
    site: Site, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """A service at the site, with its ports, and a copy of the store.

    A process may open an LMDB store only once, and other tests open theirs.
    """
    from serving.ranking_service import ServiceConfig, running_service

    copy = tmp_path_factory.mktemp("copy") / "store"
    shutil.copytree(site.store.removeprefix("lmdb:"), copy)
    config = ServiceConfig(**settings(site, store=f"lmdb:{copy}"))
    with running_service(config) as app:
        yield app
