"""What both stores do, call by call."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from typer.testing import CliRunner

import serving.stores
from muse_tools.cli.commands import app as muse_command
from serving.stores import (
    Layout,
    StoreError,
    StoreUnavailableError,
    UserRecord,
    open_store,
)
from serving.stores.lmdb_records import BLOCK_BYTES
from tests.serving.toy_store import LAYOUT, user

USER = -(2**62) - 1


@pytest.fixture
def store_url(every_store_url: str) -> str:
    return every_store_url


def of(history):
    return history.item_ids.tolist()


def test_public_names():
    assert sorted(serving.stores.__all__) == serving.stores.__all__
    for name in serving.stores.__all__:
        assert hasattr(serving.stores, name)


def test_unknown_user_is_none(store):
    assert store.read(USER) is None
    store.trim(USER, 3)
    assert store.read(USER) is None
    assert store.stats().users == 0


def test_oldest_first_with_features_and_int64_extremes(store):
    items = [2**63 - 1, -(2**63), -1, 5]
    categories = [0, -(2**63), 2**63 - 1, 7]
    store.append(USER, items[:3], {"category": categories[:3]})
    store.append(USER, items[3], {"category": categories[3]})
    store.set_user(USER, user([1, -2, 3, 2**63 - 1, 0]))
    found = store.read(USER)
    assert found.item_ids.tolist() == items
    assert {n: v.tolist() for n, v in found.behaviors.items()} == {
        "category": categories
    }
    assert found.user == user([1, -2, 3, 2**63 - 1, 0])
    assert found.rows is None and found.table_stamp is None
    assert found.item_ids.dtype == found.behaviors["category"].dtype == np.int64
    assert found.end == len(found) == 4
    newest = found.newest(2)
    assert newest.item_ids.tolist() == [-1, 5] and newest.rows is None
    assert newest.behaviors["category"].tolist() == [2**63 - 1, 7]
    assert store.read(USER, 2).item_ids.tolist() == [-1, 5]
    assert len(store.read(USER, 0)) == 0


def test_user_features_stay_until_they_are_set_again(store):
    store.set_user(7, {"profile_2": 2, "profile_4": 4})
    found = store.read(7)
    assert len(found) == 0 and found.user == user([0, 2, 0, 4, 0])
    store.append(7, 3)
    assert store.read(7).user == user([0, 2, 0, 4, 0])
    assert store.read(7).behaviors["category"].tolist() == [0]
    # With the events or not at all; what is left out is missing.
    store.append(7, [4], user={"profile_1": 1})
    found = store.read(7)
    assert found.user == user([1, 0, 0, 0, 0])
    assert found.item_ids.tolist() == [3, 4]
    store.append(8, [4])
    assert store.read(8).user is None


def test_a_store_keeps_its_own_layout(store_url):
    layout = Layout(("b", "a"), ("z", "y"))
    with pytest.raises(StoreError, match="no behavior store in"):
        open_store(store_url, timeout=20)
    with open_store(store_url, layout, timeout=20) as store:
        assert store.layout == layout and store.is_new
        store.append(1, [5], {"y": [6]}, {"a": 7})
    for other in (None, LAYOUT):
        with open_store(store_url, other, timeout=20) as store:
            assert store.layout == layout and not store.is_new
            found = store.read(1)
            assert found.user == {"b": 0, "a": 7}
            assert list(found.behaviors) == ["z", "y"]
            assert found.behaviors["z"].tolist() == [0]
            assert found.behaviors["y"].tolist() == [6]
            with pytest.raises(
                ValueError,
                match=r"behaviors: expected .*'z', 'y'.* \['category'\]",
            ):
                store.append(1, [5], {"category": [1]})
            with pytest.raises(
                ValueError, match=r"user: expected .*'b', 'a'.* \['c'\]"
            ):
                store.set_user(1, {"a": 1, "c": 1})
            assert len(store.read(1)) == 1


def test_a_removed_store_is_made_anew(store_url):
    with open_store(store_url, LAYOUT, timeout=20) as store:
        store.remove()
    with pytest.raises(StoreError, match="no behavior store in"):
        open_store(store_url, timeout=20)
    with open_store(store_url, Layout(), timeout=20) as store:
        assert store.layout == Layout()


@pytest.mark.parametrize("names", [("a", "a"), ("a", "")])
def test_names_that_are_no_layout(names):
    with pytest.raises(ValueError, match="layout: expected distinct names"):
        Layout(user=names)
    with pytest.raises(ValueError, match="of behaviors features"):
        Layout(behaviors=names)


def test_a_full_history(store_url):
    items = np.arange(1, 100_001) * 2**40
    with open_store(store_url, LAYOUT, timeout=20) as store:
        store.append(1, items, {"category": -items})
        found = store.read(1)
        assert found.item_ids.tolist() == items.tolist()
        assert found.behaviors["category"].tolist() == (-items).tolist()
        # One more drops one.
        store.append(1, 5)
        found = store.read(1)
        assert len(found) == 100_000
        assert found.item_ids[-1] == 5 and found.item_ids[0] == items[1]


def test_rows_need_the_whole_history_as_it_was(store):
    store.append(1, [1, 2, 3])
    before = store.read(1)
    assert store.set_rows(1, [7, 8, 9], -5, end=before.end)
    assert store.read(1).rows.tolist() == [7, 8, 9]
    assert store.read(1, 2).rows.tolist() == [8, 9]
    assert store.read(1).table_stamp == -5
    assert store.read(1).rows.dtype == np.int32
    assert store.stats().rows == 1
    store.append(1, 4)
    assert store.read(1).rows is None
    assert store.stats().rows == 0
    # Rows of the history before the append come too late.
    assert not store.set_rows(1, [7, 8, 9], -5, end=before.end)
    with pytest.raises(ValueError, match="rows: expected one for each of the"):
        store.set_rows(1, [7, 8, 9], -5)
    with pytest.raises(ValueError, match="user_id: 99 is not in the store"):
        store.set_rows(99, [], 1)


def test_stats_count_what_is_there(store):
    store.append_many(
        [
            UserRecord(1, None, [1, 2]),
            UserRecord(2, user([1] * 5), [3]),
            UserRecord(1, None, [4], {"category": [4]}),
        ]
    )
    assert store.read(2).user == user([1] * 5)
    store.replace_many([UserRecord(2, None, [5, 6, 7])])
    assert store.read(2).user is None
    store.trim(1, 1)
    found = store.stats()
    assert (found.users, found.events) == (2, 4)
    assert found.bytes > 0 and found.limit == 1000


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda s: s.append(1, [1], {"category": [1, 2]}),
            "same length. Received: 1 and 2",
        ),
        (lambda s: s.append(1, [1, 0]), "0 at position 1"),
        (lambda s: s.append(1, [1.5]), "whole numbers"),
        (lambda s: s.append(1, [3, True]), "whole numbers"),
        (lambda s: s.append(1, [1], {"category": [1.5]}), "'category'.*whole"),
        (lambda s: s.append(1, [1], {"x": [1]}), "behaviors: expected"),
        (lambda s: s.append(1, [1], user={"x": 1}), "user: expected"),
        (lambda s: s.append(2**63, [1]), "user_id: expected a whole"),
        (lambda s: s.append(True, [1]), "user_id: expected a whole"),
        (lambda s: s.append(1, np.array([2**63], np.uint64)), "int64"),
        (lambda s: s.set_user(1, {"profile_1": 0.5}), "profile_1.*a flat list"),
        (lambda s: s.set_user(1, {"profile_1": "x"}), "profile_1.*a whole"),
        (lambda s: s.set_user(1, {"profile_1": 2**63}), "profile_1.*in int64"),
        (lambda s: s.set_user(1, {"profile_1": [1, 2]}), "profile_1.*flat"),
        (lambda s: s.append(1, [1], times=[5]), "times: expected none"),
        (lambda s: s.read(1, -1), "limit: expected 0 or more"),
        (lambda s: s.trim(1, -1), "limit: expected 0 or more"),
        # The good user before the bad one is not written either.
        (
            lambda s: s.append_many(
                [UserRecord(1, None, [1]), UserRecord(2, None, [0])]
            ),
            "0 at",
        ),
    ],
)
def test_wrong_arguments_change_nothing(store, call, text):
    with pytest.raises(ValueError, match=text):
        call(store)
    assert store.stats().users == 0 and store.read(1) is None


@pytest.mark.parametrize(
    "url", ["", "lmdb:", "http://x", "/tmp/x", "memcached://x"]
)
def test_a_url_of_another_kind(url):
    with pytest.raises(ValueError, match="store: expected lmdb:/path"):
        open_store(url)


def test_threads_share_a_store(store):
    """Four threads append and read; every event arrives, once, in order."""
    failures = []

    def work(worker: int) -> None:
        try:
            for step in range(1, 41):
                store.append(5, [worker * 1000 + step], {"category": [worker]})
                history = store.read(5)
                mine = history.item_ids[history.behaviors["category"] == worker]
                assert mine.tolist() == [
                    worker * 1000 + n for n in range(1, step + 1)
                ]
        except Exception as error:  # noqa: BLE001 - told below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert store.stats().events == 160


def test_redis_that_is_down_is_unavailable(tmp_path):
    with pytest.raises(StoreUnavailableError, match="does not answer"):
        open_store(f"unix://{tmp_path}/none.sock", LAYOUT, timeout=0.2)


def test_redis_that_hangs_is_unavailable(redis_server):
    import redis

    with (
        open_store(redis_server.url, LAYOUT, timeout=0.2) as store,
        redis.Redis.from_url(redis_server.url) as client,
    ):
        client.client_pause(1500)
        for call in (
            lambda: store.read(1),
            lambda: store.append(1, 1),
            lambda: list(store.user_ids()),
            store.stats,
            lambda: open_store(redis_server.url, timeout=0.2),
        ):
            with pytest.raises(StoreUnavailableError, match="does not answer"):
                call()
        client.client_unpause()
        assert store.read(987654321) is None


def test_secrets_do_not_show():
    with pytest.raises(StoreUnavailableError) as caught:
        open_store("redis://me:hunter2@127.0.0.1:1/0", timeout=0.2)
    assert "hunter2" not in str(caught.value)


def test_an_append_to_lmdb_rewrites_a_block_not_the_history(tmp_path):
    """Pages that a transaction writes do not grow with the history."""
    with open_store(f"lmdb:{tmp_path}", LAYOUT) as store:
        store.append(1, np.arange(1, 50_001))
        before = store.stats().bytes
        store.append(1, 1)
        store.append(1, 1)
        store.append(1, 1)
        # The pages of three copies of a block and of the tree above it.
        assert store.stats().bytes - before < 3 * BLOCK_BYTES + 200_000
        assert before > 50_000 * 20


def test_deleted_users_are_gone_and_others_are_not(store) -> None:
    large = 2**60 + 1
    for one in (1, 2, large):
        store.append(one, [11, 12])
    store.set_user(1, user([1, 2, 3, 4, 5]))
    store.set_rows(1, [5, 6], 77)
    before = store.stats()
    assert (before.users, before.events, before.rows) == (3, 6, 1)
    assert store.delete_many([1, large, 99, 1]) == 2
    assert store.read(1) is None and store.read(large) is None
    assert store.read(2).item_ids.tolist() == [11, 12]
    after = store.stats()
    assert (after.users, after.events, after.rows) == (1, 2, 0)
    assert list(store.user_ids()) == [2]
    store.append(1, 13)
    again = store.read(1)
    assert again.item_ids.tolist() == [13]
    assert again.user is None and again.rows is None


def test_delete_by_command(store_url, tmp_path) -> None:
    with open_store(store_url, LAYOUT, timeout=20) as opened:
        for one in (1, 2, 3, 2**60 + 1):
            opened.append(one, 11)
    file = tmp_path / "users.txt"
    file.write_text(f"2\n\n{2**60 + 1}\n77\n")

    def run(*more: str):
        return CliRunner().invoke(
            muse_command, ["store", "delete", "--store", store_url, *more]
        )

    done = run("--user", "1", "--users-file", str(file))
    assert done.output == "3 of 4 users deleted\n"
    with open_store(store_url, timeout=20) as opened:
        assert list(opened.user_ids()) == [3]
    for content, part in (
        (b"4\nfour\n", f"{file}, line 2: expected a user id"),
        (b"4\n\xff\n", f"{file}, line 2: expected a user id"),
        (b"\n \n", f"{file}, line 1: expected a user id"),
        (b"", f"{file}, line 1: expected a user id"),
        (None, f"{file}'"),
    ):
        file.unlink() if content is None else file.write_bytes(content)
        done = run("--users-file", str(file))
        assert done.exit_code == 1 and part in done.stderr
        assert done.stderr.count("\n") == 1
    file.write_bytes(b"\xef\xbb\xbf3\r\n")  # As Windows writes it.
    assert run("--users-file", str(file)).output == "1 of 1 users deleted\n"
    assert run().exit_code == 2
