"""A store that was tampered with says so, and can be mended."""

from __future__ import annotations

import contextlib
import pathlib
import pickle
import subprocess
import sys

import lmdb
import numpy as np
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.stores import (
    Layout,
    StoreCorruptError,
    StoreError,
    StoreMovedError,
    UserRecord,
    open_store,
)
from tests.serving.toy_store import LAYOUT, user

pytestmark = pytest.mark.once

ITEMS = list(range(1, 1001))
KINDS_OF_ITEMS = {"category": ITEMS}
KINDS = {
    "history": (b"users", ":history"),
    "events": (b"events", ":history"),
    "rows": (b"rows", ":rows"),
}


class Vandal:
    """Changes the bytes of user 5 behind the store's back."""

    def __init__(self, url: str) -> None:
        self.url = url

    def change(self, kind: str, function) -> None:
        table, name = KINDS[kind]
        if not self.url.startswith("lmdb:"):
            with redis.Redis.from_url(self.url) as client:
                key = "muse:{5}" + name
                client.set(key, function(client.get(key)))
            return
        path = self.url.removeprefix("lmdb:")
        with contextlib.closing(lmdb.open(path, max_dbs=4)) as env:
            database = env.open_db(table)
            with env.begin(write=True) as transaction:
                with transaction.cursor(db=database) as cursor:
                    assert cursor.set_range((5 + 2**63).to_bytes(8, "big"))
                    key, value = cursor.item()
                    cursor.put(key, function(value))


@pytest.fixture
def vandal(store_url) -> Vandal:
    with open_store(store_url, LAYOUT) as store:
        store.set_user(5, user([1, 2, 3, 4, 5]))
        store.append(5, ITEMS, KINDS_OF_ITEMS)
        assert store.set_rows(5, ITEMS, 1)
        store.append(6, ITEMS, KINDS_OF_ITEMS)
    return Vandal(store_url)


def flip(place):
    def change(data: bytes) -> bytes:
        index = place % len(data)
        changed = data[index] ^ 0x10
        return data[:index] + bytes([changed]) + data[index + 1 :]

    return change


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"garbage",
        lambda data: data[:-1],
        lambda data: data + b"x" * 20,
        lambda data: bytes(len(data)),
        lambda data: data[::-1],
        flip(30),
        flip(-1),
    ],
    ids=["garbage", "cut", "longer", "zeros", "backwards", "flip", "flip_end"],
)
def test_damage_is_told_and_a_load_mends_it(vandal, store_url, kind, change):
    vandal.change(kind, change)
    with open_store(store_url) as store:
        with pytest.raises(StoreCorruptError, match="of user 5 cannot") as told:
            store.read(5)
        assert told.value.user_id == 5 and told.value.key in str(told.value)
        assert pickle.loads(pickle.dumps(told.value)).key == told.value.key
        # No other user's.
        assert store.read(6).item_ids.tolist() == ITEMS
        store.replace_many([UserRecord(5, user([9] * 5), [3, 4])])
        found = store.read(5)
        assert found.item_ids.tolist() == [3, 4]
        assert found.user == user([9] * 5) and found.rows is None


def test_another_type_in_redis(redis_server):
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
        client.hset("muse:{5}:history", "a", "b")
    with open_store(redis_server.url, LAYOUT) as store:
        for call in (lambda: store.read(5), lambda: store.append(5, 1)):
            with pytest.raises(StoreCorruptError, match="not a history"):
                call()
        store.replace_many([UserRecord(5, None, [3])])
        assert store.read(5).item_ids.tolist() == [3]


def test_events_of_another_user_are_not_taken(redis_server):
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    with (
        open_store(redis_server.url, LAYOUT) as store,
        redis.Redis.from_url(redis_server.url) as client,
    ):
        store.append(5, [1, 2], {"category": [3, 4]})
        store.append(6, [7, 8], {"category": [9, 9]})
        mine = client.get("muse:{5}:history")
        other = client.get("muse:{6}:history")
        client.set("muse:{5}:history", other)
        with pytest.raises(StoreCorruptError, match="belongs to user 6"):
            store.read(5)
        client.set("muse:{5}:history", mine[:80] + other[80:])
        with pytest.raises(StoreCorruptError, match="2 of 2 events fail"):
            store.read(5)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(place=st.integers(0, 80 + 20_000 - 1), bit=st.integers(0, 7))
def test_no_flipped_bit_gives_a_wrong_history(redis_server, place, bit):
    """Any one bit: an error, or the same history (the count of drops)."""
    with (
        open_store(redis_server.url, LAYOUT) as store,
        redis.Redis.from_url(redis_server.url) as client,
    ):
        store.delete_many([5])
        store.set_user(5, user([1, 2, 3, 4, 5]))
        store.append(5, ITEMS, KINDS_OF_ITEMS)
        data = bytearray(client.get("muse:{5}:history"))
        data[place] ^= 1 << bit
        client.set("muse:{5}:history", bytes(data))
        try:
            found = store.read(5)
        except StoreCorruptError:
            return
        assert 16 <= place < 24
        np.testing.assert_array_equal(found.item_ids, ITEMS)
        assert found.user == user([1, 2, 3, 4, 5])


def test_exchanged_features_are_found(redis_server):
    """The check knows which feature a value belongs to."""
    layout = Layout((), ("category", "action", "dwell"))
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
        with open_store(redis_server.url, layout) as store:
            values = {"category": [7], "action": [8], "dwell": [9]}
            store.append(5, [1], values)
            data = client.get("muse:{5}:history")
            head, event = data[:40], data[40:]
            parts = [event[start : start + 8] for start in range(0, 32, 8)]
            assert [int.from_bytes(p, "little") for p in parts] == [1, 7, 8, 9]
            for order in ((0, 2, 1, 3), (0, 1, 3, 2), (0, 3, 2, 1)):
                mixed = b"".join(parts[place] for place in order)
                client.set("muse:{5}:history", head + mixed + event[32:])
                with pytest.raises(StoreCorruptError, match="1 of 1 events"):
                    store.read(5)


def test_another_store_in_place_of_an_open_one(redis_server):
    """Neither read as if it were the old one nor written to."""
    other = Layout(("age",), ("action",))
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
        with open_store(redis_server.url, LAYOUT) as store:
            store.append(5, [1], {"category": [2]})
            client.flushall()
            for _ in range(2):
                for call in (
                    lambda: store.read(5),
                    lambda: store.append(5, 1),
                    lambda: store.set_user(5, {}),
                    lambda: store.set_rows(5, [1], 1),
                    lambda: store.replace_many([UserRecord(5)]),
                    lambda: store.delete_many([5]),
                    lambda: store.trim(5, 0),
                ):
                    with pytest.raises(StoreMovedError, match="open it again"):
                        call()
                assert not client.exists("muse:{5}:history", "muse:totals")
                open_store(redis_server.url, other).close()
            with open_store(redis_server.url) as again:
                assert again.layout == other


@pytest.mark.parametrize("kept", [5_000, 0.5, 0.9])
def test_a_store_that_was_cut_off_is_refused(tmp_path: pathlib.Path, kept):
    """To read behind the end of the file would end the process."""
    with open_store(f"lmdb:{tmp_path}/store", LAYOUT) as store:
        for user in range(1, 60):
            store.append(user, np.arange(1, 200))
    file = tmp_path / "store/data.mdb"
    data = file.read_bytes()
    file.write_bytes(data[: int(kept if kept > 1 else kept * len(data))])
    program = (
        "import sys; from serving.stores import StoreError, open_store\n"
        "try: open_store(sys.argv[1])\n"
        "except StoreError as error: sys.exit(f'refused: {error}')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, f"lmdb:{tmp_path}/store"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and done.stderr.startswith("refused: ")


def test_folders_that_are_no_store(tmp_path: pathlib.Path):
    with pytest.raises(StoreError, match="no behavior store in"):
        open_store(f"lmdb:{tmp_path}/none")
    assert not (tmp_path / "none").exists()
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "data.mdb").write_bytes(b"garbage" * 4096)
    with pytest.raises(StoreError, match="cannot be opened|is not a behavior"):
        open_store(f"lmdb:{broken}", LAYOUT)
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot be opened"):
        open_store(f"lmdb:{tmp_path}/file", LAYOUT)


def test_a_full_map_says_so_and_keeps_what_was_there(tmp_path):
    from serving.stores import LmdbStore

    with LmdbStore(tmp_path / "small", LAYOUT, map_bytes=400_000) as store:
        store.append(1, [1, 2])
        with pytest.raises(StoreError, match="map_bytes"):
            store.append(2, np.arange(1, 50_000))
        assert store.read(2) is None
        assert store.read(1).item_ids.tolist() == [1, 2]
        assert store.stats().users == 1
