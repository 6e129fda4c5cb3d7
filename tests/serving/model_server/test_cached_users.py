"""A model that keeps users' histories loads, swaps and gives memory back."""

from __future__ import annotations

import gc
import os
import pathlib
import shutil
import time
from collections.abc import Callable

import numpy as np
import pytest

from serving.client import (
    CachedRankRequest,
    MuseClient,
    PrefetchRequest,
    RankRequest,
)
from serving.export.user_cache import UserCacheConfig
from serving.model_server import ServerConfig, running
from serving.model_server.model_manager import State
from tests.serving.toy_muse import export_toy_muse

pytestmark = pytest.mark.tf

HISTORY = np.arange(1, 200)
CANDIDATES = np.array([5, 500, 9])
MEGABYTES = 64
# Each history takes 8 bytes per behavior, so these caches take 64 MB.
LARGE = UserCacheConfig(users=64, ways=4, max_length=MEGABYTES * 2**11)


def prefetched(user: int, shift: int = 0) -> PrefetchRequest:
    items = HISTORY + shift
    return PrefetchRequest(
        user, items, {"profile_1": 3}, {"category": items % 7}
    )


def full_score(client: MuseClient, user: int, shift: int = 0) -> np.ndarray:
    request = prefetched(user, shift)
    return client.rank(
        RankRequest(
            user,
            CANDIDATES,
            request.behavior_item_ids,
            request.user,
            request.behaviors,
        )
    ).click_probability


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def config(base: pathlib.Path, **options) -> ServerConfig:
    return ServerConfig(
        **{
            "model_base_path": str(base),
            "port": 0,
            "rest_api_port": -1,
            "file_system_poll_wait_seconds": 0.05,
            **options,
        }
    )


def test_versions_keep_their_own_users(tmp_path, muse_base):
    base = tmp_path / "muse"
    for version in ("1", "2"):
        shutil.copytree(muse_base / "1", base / version)
    file = tmp_path / "models.config"
    file.write_text(
        'model_config_list { config { name: "muse" '
        f'base_path: "{base}" model_version_policy {{ all {{}} }} }} }}'
    )
    with running(
        config(base, model_base_path="", model_config_file=str(file))
    ) as app:
        with (
            MuseClient(app.grpc_target, version=1) as first,
            MuseClient(app.grpc_target, version=2) as second,
        ):
            assert first.prefetch(prefetched(7)).cached
            asked = CachedRankRequest(7, CANDIDATES)
            found = first.rank_cached(asked)
            assert found.cache_hit
            np.testing.assert_allclose(
                found.click_probability, full_score(first, 7), atol=1e-6
            )
            assert not second.rank_cached(asked).cache_hit
            assert second.prefetch(prefetched(7, shift=90)).cached
            for client, shift in ((first, 0), (second, 90)):
                np.testing.assert_allclose(
                    client.rank_cached(asked).click_probability,
                    full_score(client, 7, shift),
                    atol=1e-6,
                )


def resident_mb() -> float:
    gc.collect()
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.once
@pytest.mark.skipif(
    not os.path.exists("/proc/self/statm"), reason="needs Linux"
)
def test_swaps_give_the_memory_of_cached_users_back(tmp_path):
    master = export_toy_muse(tmp_path / "master", 1, LARGE)
    base = tmp_path / "muse"
    base.mkdir()

    def push(version: int) -> None:
        shutil.copytree(master, base / f"writing-{version}")
        (base / f"writing-{version}").rename(base / str(version))

    push(1)
    with running(config(base)) as app:
        with MuseClient(app.grpc_target) as client:
            asked = CachedRankRequest(7, CANDIDATES)
            assert client.prefetch(prefetched(7)).cached
            assert client.rank_cached(asked).cache_hit
            before = 0.0
            for version in range(2, 7):
                push(version)
                wait_for(
                    lambda v=version: (
                        app.manager.status("muse").get(v) is not None
                        and app.manager.status("muse")[v].state
                        == State.AVAILABLE
                        and app.manager.status("muse")[v - 1].state == State.END
                    )
                )
                # What was cached went with the version that cached it.
                assert not client.rank_cached(asked).cache_hit
                assert client.prefetch(prefetched(7)).cached
                assert client.rank_cached(asked).cache_hit
                shutil.rmtree(base / str(version - 1))
                if version == 3:  # the process has what two versions need
                    before = resident_mb()
            # Three more caches were made. The allocator may keep some pages.
            assert resident_mb() - before < 1.5 * MEGABYTES
