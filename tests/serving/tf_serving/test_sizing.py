"""The figures of docs/deployment.md's sizing, computed from the code."""

from __future__ import annotations

import pathlib
import re

import numpy as np
import pytest

from muse_keras.tables.hash_index import index_sizes

pytestmark = pytest.mark.tf

PAGE = pathlib.Path(__file__).parents[3] / "docs" / "deployment.md"
ITEMS = 35_458_467
LENGTH = 100_000


def figure(name: str) -> float:
    """The number in the last column of a row of the page's tables."""
    (row,) = re.findall(
        rf"^\| {re.escape(name)} \|.*\| ([\d.,]+)[^|]*\|$",
        PAGE.read_text(encoding="utf-8"),
        re.M,
    )
    return float(row.replace(",", ""))


def index_bytes(items: int) -> int:
    buckets, slots = index_sizes(items)
    return 4 * slots + buckets


def bytes_per_item() -> float:
    vector, norm, item_id, features, learned = 128, 4, 8, 3 * 2, 16 * 4
    index = index_bytes(ITEMS) / ITEMS
    return vector + norm + item_id + features + learned + index


def test_items():
    assert figure("hash index") == pytest.approx(
        index_bytes(ITEMS) / ITEMS, abs=0.05
    )
    assert figure("one item in all") == pytest.approx(
        bytes_per_item(), abs=0.05
    )
    assert figure("item table, one version") == pytest.approx(
        bytes_per_item() * ITEMS / 1e9, abs=0.01
    )


def test_the_index_is_what_the_code_builds():
    from muse_keras.tables.hash_index import build_hash_index

    ids = np.arange(1, 20_001, dtype=np.int64) * 7919
    built = build_hash_index(ids)
    assert built.slots.nbytes + built.pilots.nbytes == index_bytes(len(ids))


def cache_bytes(users: int) -> int:
    from serving.export.user_cache import UserCache, UserCacheConfig
    from serving.export.words import WordFormat

    config = UserCacheConfig(users=users, ways=4, max_length=LENGTH)
    return UserCache(config, WordFormat(26, {"category": 14}), 5).bytes


def test_cached_users():
    per_user = (cache_bytes(8) - cache_bytes(4)) / 4
    assert figure("one cached user") == per_user
    small = cache_bytes(4) - 4 * per_user
    assert figure("user cache, 5,000 users") == pytest.approx(
        (5000 * per_user + small) / 1e9, abs=0.01
    )


def test_versions_and_their_swap():
    table = figure("item table, one version")
    cache = figure("user cache, 5,000 users")
    assert figure("one version") == pytest.approx(table + cache, abs=0.011)
    assert figure("during a swap") == pytest.approx(
        2 * (table + cache), abs=0.021
    )
