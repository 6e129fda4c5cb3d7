"""`muse store` on raw tables: whole, rejected, killed and resumed."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from muse_tools.cli.store import app
from schemas import ranking_schema
from serving.client import MuseClient
from serving.stores import Kind, Layout, load_users, open_store
from tests.serving.toy_store import LAYOUT, user

pytestmark = pytest.mark.once

ROOT = pathlib.Path(__file__).parents[3]
GOOD = {
    5: ([3, 0, 6, 9], [1, 0, 2, 3]),
    -(2**60): ([], []),
    8: (list(range(1, 30)), [4] * 29),
}
BAD = [
    (None, [1], [1], "user_id is null"),
    (0, [1], [1], "user_id is 0, which means padding"),
    (21, None, [1], "behavior_item_ids is null"),
    (22, [1], None, "behavior_category is null"),
    (
        23,
        [1, 2],
        [1],
        "behavior_item_ids and behavior_category differ in length",
    ),
    (24, [1, None], [1, 1], "a behavior is null"),
    (25, [1], [None], "a behavior is null"),
]


@pytest.fixture
def store_url(every_store_url: str) -> str:
    return every_store_url


def table_of(rows) -> pa.Table:
    users, items, categories = zip(*rows, strict=True)
    columns = {
        "129_1": list(users),
        **{
            f"130_{place}": [None if user == 8 else place for user in users]
            for place in range(1, 6)
        },
        "150_2_180": list(items),
        "151_2_180": list(categories),
    }
    lists = pa.list_(pa.int64())
    return pa.table(
        {
            name: pa.array(
                values, lists if name.startswith("15") else pa.int64()
            )
            for name, values in columns.items()
        }
    )


def write(root: pathlib.Path, rows) -> pathlib.Path:
    (root / "raw").mkdir(parents=True, exist_ok=True)
    pq.write_table(
        table_of(rows),
        root / "raw" / "test_user_features.parquet",
        row_group_size=2,
    )
    return root


def run(*arguments: str):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_load_stats_get_append(tmp_path, store_url):
    rows = [(user, *lists) for user, lists in GOOD.items()]
    rows[1:1] = [row[:3] for row in BAD[:4]]
    rows += [row[:3] for row in BAD[4:]]
    data = write(tmp_path / "data", rows)
    done = run("load", "--data", data, "--store", store_url, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["users"] == 3 and report["rows"] == 10
    assert report["events"] == 32 and report["padding"] == 1
    assert report["rejected"] == {
        **{row[3]: 1 for row in BAD},
        "a behavior is null": 2,
    }
    kept = pq.read_table(data / "test_user_features.rejected").to_pylist()
    assert [(row["129_1"], row["reason"]) for row in kept] == [
        (row[0], row[3]) for row in BAD
    ]
    with open_store(store_url) as store:
        assert store.layout == Layout.of(ranking_schema.preset("taobao_mm"))
        for user_id, (items, _) in GOOD.items():
            found = store.read(user_id)
            expected = [item for item in items if item]
            assert found.item_ids.tolist() == expected
            profile = [0] * 5 if user_id == 8 else [1, 2, 3, 4, 5]
            assert found.user == user(profile)
        assert store.read(5).behaviors["category"].tolist() == [1, 2, 3]
        assert store.read(23) is None
    shown = json.loads(run("stats", "--store", store_url, "--json").stdout)
    assert shown["users"] == 3
    assert shown["layout"]["behaviors"] == {"category": ["int64", 1]}
    shown = run("stats", "--store", store_url).stdout
    assert "\nbehavior features: category\n" in shown
    done = run(
        "append", "--store", store_url, "--user", "5",
        "--items", "77,78", "--behavior", "category=1,2",
    )  # fmt: skip
    assert done.stdout == "user 5: 5 events\n"
    get = ("get", "--store", store_url, "--user", "5", "--last", "2")
    assert run(*get).stdout == (
        "user 5: profile_1 1, profile_2 2, profile_3 3, profile_4 4, "
        "profile_5 5, 5 events\n"
        "item 78, category 2\nitem 77, category 1\n"
    )
    done = run(
        "append", "--store", store_url, "--user", "5", "--items", "79",
        "--user-feature", "profile_2=7", "--user-feature", "profile_5=8",
    )  # fmt: skip
    assert done.stdout == "user 5: 6 events\n"
    assert json.loads(run(*get, "--json").stdout) == {
        "user_id": 5,
        "user": user([0, 7, 0, 0, 8]),
        "events": 6,
        "has_rows": False,
        "newest": {"item_ids": [79, 78], "behaviors": {"category": [0, 2]}},
    }


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["get", "--user", "99"], "the store has no user 99"),
        (
            ["append", "--user", "1", "--items", "0"],
            "Received: 0 at position 0",
        ),
        (
            ["append", "--user", "1", "--items", "2", "--behavior", "x=3"],
            "layout, ['category']. Received: ['x']",
        ),
        (
            ["append", "--user", "1", "--items", "2"]
            + ["--behavior", "category=x"],
            "behaviors['category']: expected a whole number",
        ),
        (
            ["append", "--user", "1", "--items", "2"]
            + ["--user-feature", "profile_1=1,2"],
            "user['profile_1']: expected a flat list",
        ),
        (
            ["append", "--user", "1", "--items", "2", "--times", "3"],
            "times: expected none",
        ),
        (["get", "--user", "ann"], "user_id: expected a whole number"),
    ],
)
def test_errors_are_one_line(store_url, arguments, text):
    with open_store(store_url, LAYOUT) as store:
        store.append(1, 1)
    done = run(*arguments, "--store", store_url)
    assert done.exit_code == 1
    assert text in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "option",
    [
        ("--behavior", "category"),
        ("--user-feature", "profile_1"),
        ("--times", "now"),
    ],
)
def test_features_that_are_not_written_so(store_url, option):
    open_store(store_url, LAYOUT).close()
    append = ("append", "--store", store_url, "--user", "1", "--items", "1")
    done = run(*append, *option)
    assert done.exit_code == 2 and "expected" in done.stderr


def test_what_is_counted_is_what_is_kept(tmp_path, store_url):
    data = write(tmp_path / "data", [(8, *GOOD[8]), (9, [7, 6], [1, 1])])
    options = ("load", "--data", data, "--store", store_url, "--limit", "20")
    report = json.loads(run(*options, "--json").stdout)
    with open_store(store_url) as store:
        assert report["events"] == store.stats().events == 22
        assert store.read(8).item_ids.tolist() == list(range(10, 30))


def test_a_store_that_is_not_there(tmp_path):
    done = run("stats", "--store", f"lmdb:{tmp_path}/none")
    assert done.exit_code == 1 and "no behavior store in" in done.stderr


def test_a_killed_load_goes_on(tmp_path, store_url):
    """kill -9 between two writes; the second try ends with the same store."""
    rows = [(user, [user, user + 1], [1, 2]) for user in range(1, 41)]
    rows[3] = (4, [1], [1, 2])
    rows[30] = (31, [1], [1, 2])
    data = write(tmp_path / "data", rows)
    arguments = ["load", "--data", str(data), "--store", store_url, "--json"]
    code = """
import os, signal, sys
from serving.stores import bulk_load
from muse_tools.cli import store

bulk_load._COMMIT_USERS = 8
load, calls = bulk_load._load, []
def killing(*arguments):
    load(*arguments)
    calls.append(1)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
bulk_load._load = killing
store.app(sys.argv[1:])
"""
    killed = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT, capture_output=True, timeout=60,
    )  # fmt: skip
    assert killed.returncode == -9, killed.stderr
    with open_store(store_url) as store:
        before = store.stats().users
    assert 0 < before < 38
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["resumed"] == 16 and report["rows"] == 40
    assert report["users"] == 38 - before
    with open_store(store_url) as store:
        assert sorted(store.user_ids()) == [
            row[0] for row in rows if len(row[1]) == len(row[2])
        ]
        assert store.stats().events == 76
    # The rejected rows of both tries are kept.
    kept = pq.read_table(data / "test_user_features.rejected")
    assert sorted(kept["129_1"].to_pylist()) == [4, 31]
    # A finished load starts again, and so does one of a changed table.
    assert json.loads(run(*arguments).stdout)["users"] == 38
    write(data, rows[:2])
    again = json.loads(run(*arguments).stdout)
    assert (again["resumed"], again["users"]) == (0, 2)
    assert not list((data / "test_user_features.rejected").iterdir())


def test_a_missing_column_is_named(tmp_path, store_url):
    batch = table_of([(1, [1], [1])])
    columns = dict(
        zip(
            ("user_id", *(f"user_{name}" for name in LAYOUT.user)),
            batch.column_names[:6],
            strict=True,
        ),
        behavior_item_ids="150_2_180",
        behavior_category="151_2_180",
    )
    batch = batch.drop(["151_2_180"])
    with open_store(store_url, LAYOUT) as store:
        with pytest.raises(ValueError, match="151_2_180 .behavior_category"):
            load_users(
                store,
                batch.to_batches(),
                columns=columns,
                source="x",
                rejected=tmp_path / "rejected",
            )


@pytest.mark.parametrize("missing", [(), ("action",)])
def test_a_table_of_other_features(tmp_path, store_url, missing):
    """The layout is that of the columns; a null list is rejected by name."""
    table = pa.table(
        {
            "who": [1, 2],
            "age": [30, None],
            "what": [[7, 0, 8], [9]],
            "dwell": [[1, 2, 3], None],
            "action": [[4, 5, 6], [7]],
        }
    )
    columns = {
        "user_id": "who",
        "user_age": "age",
        "behavior_item_ids": "what",
        "behavior_dwell": "dwell",
        "behavior_action": "action",
    }
    kept = tuple(f for f in ("dwell", "action") if f not in missing)
    with open_store(store_url, Layout(("age",), kept)) as store:

        def load():
            return load_users(
                store,
                table.to_batches(),
                columns=columns,
                source="x",
                rejected=tmp_path / "rejected",
            )

        if missing:
            with pytest.raises(ValueError, match=r"\['dwell'\]. .*'action'"):
                load()
            assert store.read(1) is None
            return
        report = load()
        assert report.rejected == {"behavior_dwell is null": 1}
        found = store.read(1)
        assert found.user == {"age": 30} and found.item_ids.tolist() == [7, 8]
        assert found.behaviors["dwell"].tolist() == [1, 3]
        assert found.behaviors["action"].tolist() == [4, 6]
    (row,) = pq.read_table(tmp_path / "rejected").to_pylist()
    assert row["who"] == 2 and row["reason"] == "behavior_dwell is null"


def test_values_of_all_kinds(tmp_path, store_url):
    """Missing ones are 0 or NaN; a vector of another length is rejected."""
    vector, inf = pa.list_(pa.float32()), float("inf")
    table = pa.table(
        {
            "user_id": [1, 2, 3, 4, 5],
            "user_tags": [[5, None, 6, 7], None, [8], [8], [8]],
            "user_height": pa.array([1.5, None, 2, inf, 2], pa.float32()),
            "user_taste": pa.array([[1, -0.5], None, [1], None, None], vector),
            "behavior_item_ids": [[7, 0, 8], [9], [9], [9], [9]],
            "behavior_price": pa.array(
                [[2.5, 1, None], [3], [3], [3], [-inf]], vector
            ),
            "behavior_times": [[70, 75, 80], [90], [90], [90], [90]],
        }
    )
    layout = Layout(
        {
            "tags": Kind("int64", 3),
            "height": Kind("float32"),
            "taste": Kind("float32", 2),
        },
        {"price": Kind("float32")},
        times=True,
    )
    with open_store(store_url, layout) as store:
        report = load_users(
            store,
            table.to_batches(),
            columns={name: name for name in table.column_names},
            source="x",
            rejected=tmp_path / "rejected",
        )
        assert report.rejected == {
            "user_taste does not have 2 numbers": 1,
            "user_height is infinite": 1,
            "behavior_price is infinite": 1,
        }
        one, two = store.read(1), store.read(2)
    assert one.user["tags"].tolist() == [5, 0, 6]
    assert one.user["height"] == 1.5
    assert one.user["taste"].tolist() == [1, -0.5]
    assert one.item_ids.tolist() == [7, 8] and one.times.tolist() == [70, 80]
    assert repr(one.behaviors["price"].tolist()) == "[2.5, nan]"
    assert two.user["tags"].tolist() == [0, 0, 0]
    assert repr(two.user["height"]) == "nan"
    assert repr(two.user["taste"].tolist()) == "[nan, nan]"


@pytest.mark.tf
def test_rows_come_from_the_served_model(tmp_path, muse):
    """What `muse store rows` keeps is what the server resolves."""
    url = f"lmdb:{tmp_path}/store"
    items = [2**40 + 5, 7, 2**40 + 5, 11]
    with open_store(url, LAYOUT) as store:
        store.append(1, items)
        store.append(2, [9])
        store.set_user(3, user([1] * 5))
    done = run("rows", "--store", url, "--target", muse.grpc)
    assert done.exit_code == 0, done.output
    assert done.stdout == "3 users resolved to rows\n"
    with open_store(url) as store, MuseClient(muse.grpc) as client:
        found = store.read(1)
        expected = client.resolve_items(items)
        assert found.rows.tolist() == expected.rows.tolist()
        assert len(set(found.rows.tolist())) == 3
        assert found.table_stamp == expected.table_stamp
        nine = client.resolve_items([9]).rows.tolist()
        assert store.read(2).rows.tolist() == nine
        # The next event makes them count no more.
        store.append(1, 8)
        assert store.read(1).rows is None
    gone = run("rows", "--store", url, "--target", "127.0.0.1:1")
    assert gone.exit_code == 1 and "no server answers" in gone.stderr
