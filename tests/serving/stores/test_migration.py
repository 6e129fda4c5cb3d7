"""Stores of old formats are refused by name and copied, byte by byte as they
were: format 1 without a record of its features, format 2 with their names.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import struct
import subprocess
import sys
import zlib

import lmdb
import pytest
import redis
from typer.testing import CliRunner

from muse_tools.cli.store import app
from serving.stores import Kind, Layout, StoreError, open_store
from tests.serving.toy_store import LAYOUT, user

pytestmark = pytest.mark.once

ROOT = pathlib.Path(__file__).parents[3]
BLOCK = 408
"""Events of a block in LMDB."""

RECORDS = {
    1: b"1",
    2: json.dumps(
        {
            "format": 2,
            "user": [f"profile_{place}" for place in range(1, 6)],
            "behaviors": ["category"],
        }
    ).encode(),
}

# User: features or None, number of the first event kept, events kept.
USERS = {
    7: ([1, -2, 3, 2**62, 0], 0, [(11, 3), (-(2**63), 2**63 - 1), (12, -1)]),
    -(2**60): (None, 450, [(1 + n, n % 7) for n in range(1000)]),
    8: ([5] * 5, 0, []),
    9: (None, 0, [(1, 1)]),
}


def event(user_id: int, item: int, category: int) -> bytes:
    """20 bytes of an event, by the definition of both formats."""
    whole = 2**64
    mixed = item * 0xD6E8FEB86659FD93 % whole
    mixed ^= mixed >> 32
    mixed = (mixed + category * 0xA0761D6478BD642F) % whole
    mixed ^= mixed >> 32
    mixed += (user_id + 1) * 0x9E3779B97F4A7C15
    mixed = mixed * 0xE7037ED1A0B428DB % whole
    return struct.pack("<qqI", item, category, mixed >> 32)


def header(user_id: int, profile: list[int] | None, start: int) -> bytes:
    known = (int(profile is not None), *(profile or [0] * 5))
    check = zlib.crc32(b"MUSEHIS1" + struct.pack("<7q", user_id, *known))
    fields = struct.pack("<8qQ", user_id, start, *known, check)
    return b"MUSEHIS1" + fields


def write_lmdb(path: pathlib.Path, record: bytes = b"1") -> None:
    with contextlib.closing(lmdb.open(str(path), max_dbs=4)) as env:
        tables = {
            name: env.open_db(name)
            for name in (b"users", b"events", b"rows", b"info")
        }
        with env.begin(write=True) as txn:
            for user_id, (profile, start, events) in USERS.items():
                key = (user_id + 2**63).to_bytes(8, "big")
                end = start + len(events)
                head = header(user_id, profile, start)
                check = zlib.crc32(struct.pack("<q", end), zlib.crc32(head))
                tail = struct.pack("<qI", end, check)
                txn.put(key, head + tail, db=tables[b"users"])
                # Events before the first that is kept stay in its block.
                first = start // BLOCK * BLOCK
                kept = [(99, 99)] * (start - first) + events
                for place in range(0, len(kept), BLOCK):
                    number = (first + place) // BLOCK
                    txn.put(
                        key + number.to_bytes(8, "big"),
                        b"".join(
                            event(user_id, *pair)
                            for pair in kept[place : place + BLOCK]
                        ),
                        db=tables[b"events"],
                    )
            txn.put(b"format", record, db=tables[b"info"])
            totals = struct.pack("<3q", *totals_of(), 0)
            txn.put(b"totals", totals, db=tables[b"info"])


def write_redis(url: str, record: bytes) -> None:
    with redis.Redis.from_url(url) as client:
        if record != b"1":  # In Redis, format 1 had none.
            client.set("muse:format", record)
        for user_id, (profile, start, events) in USERS.items():
            client.set(
                f"muse:{{{user_id}}}:history",
                header(user_id, profile, start)
                + b"".join(event(user_id, *pair) for pair in events),
            )
        users, events = totals_of()
        totals = {"users": users, "events": events}
        client.hset("muse:totals", mapping=totals)


def totals_of() -> tuple[int, int]:
    return len(USERS), sum(len(events) for _, _, events in USERS.values())


@pytest.fixture(params=RECORDS)
def old_format(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture
def old_url(store_url: str, old_format: int, tmp_path: pathlib.Path) -> str:
    """A store of an old format."""
    if store_url.startswith("lmdb:"):
        write_lmdb(tmp_path / "store", RECORDS[old_format])
    else:
        write_redis(store_url, RECORDS[old_format])
    return store_url


@pytest.fixture(params=["lmdb", "redis"])
def new_url(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    if request.param == "lmdb":
        return f"lmdb:{tmp_path}/new"
    url = request.getfixturevalue("redis_server").url + "?db=3"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


def migrate(old: str, new: str, *more: str):
    command = ["migrate", "--store", old, "--to", new, *more]
    return CliRunner().invoke(app, command)


def check(store, user_id: int, newest: int = 10**6) -> None:
    profile, _, events = USERS[user_id]
    events = events[-newest:]
    found = store.read(user_id)
    assert found.user == (None if profile is None else user(profile))
    assert found.item_ids.tolist() == [item for item, _ in events]
    kinds = found.behaviors["category"].tolist()
    assert kinds == [category for _, category in events]


def test_old_formats_are_refused_with_the_way_out(old_url, old_format):
    for layout in (None, LAYOUT):
        with pytest.raises(StoreError, match="muse store migrate") as told:
            open_store(old_url, layout)
        assert "\n" not in str(told.value)
        assert f"has format {old_format}," in str(told.value)
    done = CliRunner().invoke(app, ["stats", "--store", old_url])
    assert done.exit_code == 1 and done.stderr.count("\n") == 1
    assert "muse store migrate --store URL --to NEW_URL" in done.stderr


def test_users_are_the_same_in_the_new_store(old_url, new_url):
    done = migrate(old_url, new_url)
    assert done.exit_code == 0, done.output
    assert done.stdout == "4 users copied\n"
    with open_store(new_url) as store:
        assert store.layout == LAYOUT
        assert sorted(store.user_ids()) == sorted(USERS)
        for user_id in USERS:
            check(store, user_id)
        assert store.stats().events == totals_of()[1]
        # It goes on.
        store.append(9, [2], {"category": [4]})
        assert store.read(9).item_ids.tolist() == [1, 2]
        assert store.read(9).behaviors["category"].tolist() == [1, 4]
    # Users that are there stay as they are.
    assert migrate(old_url, new_url).stdout == "0 users copied\n"
    with open_store(new_url) as store:
        assert store.read(9).item_ids.tolist() == [1, 2]
    assert migrate(new_url, old_url).exit_code == 1
    # The old store was not written to: it is still refused.
    with pytest.raises(StoreError, match="muse store migrate"):
        open_store(old_url)
    with open_store(old_url, old_format=True) as store:
        for user_id in USERS:
            check(store, user_id)


def test_the_limit_keeps_the_newest(old_url, new_url):
    assert migrate(old_url, new_url, "--limit", "20").exit_code == 0
    with open_store(new_url) as store:
        for user_id in USERS:
            check(store, user_id, 20)


def test_a_killed_copy_goes_on(old_url, new_url):
    code = """
import os, signal, sys
from serving.stores import migration
from muse_tools.cli import store

migration._COMMIT_USERS = 2
read = migration.BehaviorStore.read
calls = []
def killing(self, user_id, limit=None):
    calls.append(limit)
    if calls.count(None) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(self, user_id, limit)
migration.BehaviorStore.read = killing
store.app(sys.argv[1:])
"""
    killed = subprocess.run(
        [sys.executable, "-c", code, "migrate"]
        + ["--store", old_url, "--to", new_url],
        cwd=ROOT, capture_output=True, timeout=60,
    )  # fmt: skip
    assert killed.returncode == -9, killed.stderr
    with open_store(new_url) as store:
        assert len(list(store.user_ids())) == 2
    assert migrate(old_url, new_url).stdout == "2 users copied\n"
    with open_store(new_url) as store:
        for user_id in USERS:
            check(store, user_id)


def test_damaged_users_are_told_and_the_others_copied(new_url, tmp_path):
    write_lmdb(tmp_path / "store")
    with contextlib.closing(lmdb.open(f"{tmp_path}/store", max_dbs=4)) as env:
        users = env.open_db(b"users")
        with env.begin(write=True) as txn:
            key = (7 + 2**63).to_bytes(8, "big")
            data = bytearray(txn.get(key, db=users))
            data[40] ^= 1
            txn.put(key, bytes(data), db=users)
    done = migrate(f"lmdb:{tmp_path}/store", new_url)
    assert done.exit_code == 1
    assert "3 users were copied and 1 could not be" in done.stderr
    assert "history of user 7" in done.stderr
    with open_store(new_url) as store:
        assert sorted(store.user_ids()) == sorted(set(USERS) - {7})


def test_a_target_that_lacks_a_feature(old_url, new_url):
    open_store(new_url, Layout(LAYOUT.user, ("action",))).close()
    done = migrate(old_url, new_url)
    assert done.exit_code == 1
    assert "layout, ['action']. Received: ['category']" in done.stderr
    with open_store(new_url) as store:
        assert store.stats().users == 0


def test_a_store_of_any_features_is_copied(store_url, new_url):
    layout = Layout((), {"a": Kind("float32"), "b": Kind()}, times=True)
    with open_store(store_url, layout) as store:
        store.append(1, [5, 6], {"a": [1, 0.5], "b": [3, 4]}, times=[70, 80])
    assert migrate(store_url, new_url).exit_code == 0
    with open_store(new_url) as store:
        assert store.layout == layout
        found = store.read(1)
        assert found.item_ids.tolist() == [5, 6] and found.user is None
        assert found.behaviors["b"].tolist() == [3, 4]
        assert found.behaviors["a"].tolist() == [1, 0.5]
        assert found.times.tolist() == [70, 80]


def test_a_target_with_times_needs_times(old_url, new_url):
    layout = Layout(LAYOUT.user, LAYOUT.behaviors, times=True)
    open_store(new_url, layout).close()
    done = migrate(old_url, new_url)
    assert done.exit_code == 1 and "times: expected the same" in done.stderr
