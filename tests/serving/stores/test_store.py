"""Both stores against a model of a history: a plain list."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import serving.stores
from muse_tools.cli.commands import app as muse_command
from serving.stores import (
    StoreUnavailableError,
    UserRecord,
    open_store,
)
from serving.stores.lmdb_records import BLOCK_EVENTS

USER = -(2**62) - 1


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


def test_oldest_first_with_profile_and_int64_extremes(store):
    items = [2**63 - 1, -(2**63), -1, 5]
    categories = [0, -(2**63), 2**63 - 1, 7]
    store.append(USER, items[:3], categories[:3])
    store.append(USER, items[3], categories[3])
    store.set_profile(USER, [1, -2, 3, 2**63 - 1, 0])
    found = store.read(USER)
    assert found.item_ids.tolist() == items
    assert found.category_ids.tolist() == categories
    assert found.profile.tolist() == [1, -2, 3, 2**63 - 1, 0]
    assert found.rows is None and found.table_stamp is None
    assert found.item_ids.dtype == found.category_ids.dtype == np.int64
    assert found.end == len(found) == 4
    newest = found.newest(2)
    assert newest.item_ids.tolist() == [-1, 5] and newest.rows is None
    assert store.read(USER, 2).item_ids.tolist() == [-1, 5]
    assert len(store.read(USER, 0)) == 0


def test_user_with_a_profile_alone(store):
    store.set_profile(7, [1, 2, 3, 4, 5])
    found = store.read(7)
    assert len(found) == 0 and found.profile.tolist() == [1, 2, 3, 4, 5]
    store.append(7, 3, 3)
    assert store.read(7).profile.tolist() == [1, 2, 3, 4, 5]


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.integers(0, 700)),
            st.tuples(st.just("trim"), st.integers(0, 1200)),
            st.tuples(st.just("replace"), st.integers(0, 1500)),
            st.tuples(st.just("read"), st.integers(0, 1100)),
            st.tuples(st.just("rows"), st.just(0)),
        ),
        max_size=12,
    )
)
def test_any_sequence_is_that_of_a_list(store, steps):
    """Blocks, cuts and numbers never show: a store is a list per user."""
    # Two neighbors must stay as they are.
    for user in (-1, 1):
        store.replace_many([UserRecord(user, None, [user], [9])])
    store.replace_many([UserRecord(0, None, [], [])])
    expected: list[int] = []
    rows: list[int] | None = None
    counter = 1
    ends = {store.read(0).end}
    for kind, number in steps:
        ids = list(range(counter, counter + number))
        categories = [item % 7 for item in ids]
        if kind == "append":
            store.append(0, ids, categories)
            counter += number
            expected = (expected + ids)[-1000:]
            rows = rows if not ids else None
        elif kind == "replace":
            store.replace_many([UserRecord(0, [5] * 5, ids, categories)])
            counter += number
            expected, rows = ids[-1000:], None
        elif kind == "trim":
            store.trim(0, number)
            expected = expected[max(0, len(expected) - number) :]
        elif kind == "rows":
            rows = [-item for item in expected]
            assert store.set_rows(0, rows, 17, end=store.read(0).end)
        limit = number if kind == "read" else None
        found = store.read(0, limit)
        most = 1000 if limit is None else limit
        wanted = expected[max(0, len(expected) - most) :]
        assert of(found) == wanted
        assert found.category_ids.tolist() == [i % 7 for i in wanted]
        if rows is None:
            assert found.rows is None
        else:
            assert found.rows.tolist() == [-i for i in wanted]
            assert found.table_stamp == 17
        if kind == "append" and number:
            assert found.end not in ends
            ends.add(found.end)
    assert of(store.read(-1)) == [-1] and of(store.read(1)) == [1]
    assert sorted(store.user_ids()) == [-1, 0, 1]


def test_a_full_history(store_url):
    items = np.arange(1, 100_001) * 2**40
    with open_store(store_url, timeout=20) as store:
        store.append(1, items, -items)
        found = store.read(1)
        assert found.item_ids.tolist() == items.tolist()
        assert found.category_ids.tolist() == (-items).tolist()
        # One more drops one.
        store.append(1, 5, 6)
        found = store.read(1)
        assert len(found) == 100_000
        assert found.item_ids[-1] == 5 and found.item_ids[0] == items[1]


def test_rows_need_the_whole_history_as_it_was(store):
    store.append(1, [1, 2, 3], [0, 0, 0])
    before = store.read(1)
    assert store.set_rows(1, [7, 8, 9], -5, end=before.end)
    assert store.read(1).rows.tolist() == [7, 8, 9]
    assert store.read(1, 2).rows.tolist() == [8, 9]
    assert store.read(1).table_stamp == -5
    assert store.read(1).rows.dtype == np.int32
    assert store.stats().rows == 1
    store.append(1, 4, 0)
    assert store.read(1).rows is None
    assert store.stats().rows == 0
    # Rows of the history before the append come too late.
    assert not store.set_rows(1, [7, 8, 9], -5, end=before.end)
    with pytest.raises(ValueError, match="rows: expected one for each of the"):
        store.set_rows(1, [7, 8, 9], -5)
    with pytest.raises(ValueError, match="user_id: 99 is not in the store"):
        store.set_rows(99, [], 1)


def test_stats_count_what_is_there(store):
    store.append_many([(1, [1, 2], [1, 2]), (2, [3], [3]), (1, [4], [4])])
    store.replace_many([UserRecord(2, None, [5, 6, 7], [0, 0, 0])])
    store.trim(1, 1)
    found = store.stats()
    assert (found.users, found.events) == (2, 4)
    assert found.bytes > 0 and found.limit == 1000


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda s: s.append(1, [1], [1, 2]), "same length. Received: 1 and 2"),
        (lambda s: s.append(1, [1, 0], [1, 1]), "0 at position 1"),
        (lambda s: s.append(1, [1.5], [1]), "whole numbers"),
        (lambda s: s.append(2**63, [1], [1]), "user_id: expected a whole"),
        (lambda s: s.append(True, [1], [1]), "user_id: expected a whole"),
        (lambda s: s.append(1, np.array([2**63], np.uint64), [1]), "int64"),
        (lambda s: s.set_profile(1, [1, 2]), "profile: expected 5 whole"),
        (lambda s: s.read(1, -1), "limit: expected 0 or more"),
        (lambda s: s.trim(1, -1), "limit: expected 0 or more"),
        # The good user before the bad one is not written either.
        (lambda s: s.append_many([(1, [1], [1]), (2, [0], [1])]), "0 at"),
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
                store.append(5, [worker * 1000 + step], [worker])
                history = store.read(5)
                mine = history.item_ids[history.category_ids == worker]
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
    with open_store(f"unix://{tmp_path}/none.sock", timeout=0.2) as store:
        for call in (
            lambda: store.read(1),
            lambda: store.append(1, 1, 1),
            lambda: list(store.user_ids()),
            store.stats,
        ):
            with pytest.raises(StoreUnavailableError, match="does not answer"):
                call()


def test_redis_that_hangs_is_unavailable(redis_server):
    import redis

    with (
        open_store(redis_server.url, timeout=0.2) as store,
        redis.Redis.from_url(redis_server.url) as client,
    ):
        client.client_pause(1500)
        with pytest.raises(StoreUnavailableError, match="does not answer"):
            store.read(1)
        client.client_unpause()
        assert store.read(987654321) is None


def test_secrets_do_not_show():
    with open_store("redis://me:hunter2@127.0.0.1:1/0", timeout=0.2) as store:
        with pytest.raises(StoreUnavailableError) as caught:
            store.read(1)
    assert "hunter2" not in str(caught.value)


def test_an_append_to_lmdb_rewrites_a_block_not_the_history(tmp_path):
    """Pages that a transaction writes do not grow with the history."""
    with open_store(f"lmdb:{tmp_path}") as store:
        store.append(1, np.arange(1, 50_001), np.zeros(50_000, int))
        before = store.stats().bytes
        store.append(1, 1, 1)
        store.append(1, 1, 1)
        store.append(1, 1, 1)
        # The pages of three copies of a block and of the tree above it.
        assert store.stats().bytes - before < 3 * BLOCK_EVENTS * 20 + 200_000
        assert before > 50_000 * 20


def test_deleted_users_are_gone_and_others_are_not(store) -> None:
    large = 2**60 + 1
    for user in (1, 2, large):
        store.append(user, [11, 12], [3, 3])
    store.set_profile(1, [1, 2, 3, 4, 5])
    store.set_rows(1, [5, 6], 77)
    before = store.stats()
    assert (before.users, before.events, before.rows) == (3, 6, 1)
    assert store.delete_many([1, large, 99, 1]) == 2
    assert store.read(1) is None and store.read(large) is None
    assert store.read(2).item_ids.tolist() == [11, 12]
    after = store.stats()
    assert (after.users, after.events, after.rows) == (1, 2, 0)
    assert list(store.user_ids()) == [2]
    store.append(1, 13, 4)
    again = store.read(1)
    assert again.item_ids.tolist() == [13]
    assert again.profile.tolist() == [0] * 5 and again.rows is None


def test_delete_by_command(store_url, tmp_path) -> None:
    with open_store(store_url, timeout=20) as opened:
        for user in (1, 2, 3, 2**60 + 1):
            opened.append(user, 11, 3)
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
