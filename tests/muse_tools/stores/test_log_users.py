"""One user of an event log, against plain loops over the events."""

from __future__ import annotations

import datetime
import types

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from muse_tools.datasets import raw_tables
from muse_tools.datasets.errors import DataError
from schemas.hashing import stable_id

pytestmark = pytest.mark.tf

SCHEMA = """
name: shop
item: {column: sku}
labels: {click: clicked}
features:
  user: {age: , clubs: {many: 2}}
  item: {category: {type: string}}
  behavior: {category: , what: {type: string, hashed: 8}, ago: {time: since}}
  matches: [category]
log:
  delay_s: 100
  action: what
  keep: [click, order]
  max_history: 3
  train: [2026-03-01, 2026-03-10]
  eval: [2026-03-11, 2026-03-12]
"""
START = datetime.datetime(2026, 3, 1, tzinfo=datetime.timezone.utc)
DAY = 86_400
# User, item, seconds after the start, action.
EVENTS = [
    (1, 11, 2 * DAY, "click"),
    (1, 12, 5 * DAY, "view"),
    (2, 11, 5 * DAY, "click"),
    (1, 13, 4 * DAY, "order"),
    (1, 13, 4 * DAY, "order"),  # Again.
    (1, 12, 10 * DAY - 50, "click"),  # Not yet known to the impression.
    (1, 11, 9 * DAY, "click"),
    (1, 14, 10 * DAY - 101, "order"),
    (3, 14, 11 * DAY, "order"),
]
# The first of user 1 in the eval days is the second one.
SHOWN = [
    (1, 12, 8 * DAY, 1),
    (1, 12, 10 * DAY, 0),
    (1, 14, 11 * DAY, 1),
    (3, 11, 11 * DAY, 0),
]


def history(user, end):
    """The newest three behaviors before a second, oldest first."""
    rows = {row for row in EVENTS if row[0] == user and row[3] != "view"}
    return sorted((r for r in rows if r[2] < end), key=lambda r: r[2])[-3:]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    from muse_tools.stores import log_users

    folder = tmp_path_factory.mktemp("log")
    (folder / "schema.yaml").write_text(SCHEMA)

    def write(name, rows, columns):
        values = dict(zip(columns, zip(*rows, strict=True), strict=True))
        if "time" in values:
            moments = [START + datetime.timedelta(0, s) for s in values["time"]]
            values["time"] = pa.array(moments, pa.timestamp("s", "UTC"))
        pq.write_table(pa.table(values), folder / f"{name}.parquet")

    write("events", EVENTS, ("user_id", "sku", "time", "what"))
    write("impressions", SHOWN, ("user_id", "sku", "time", "clicked"))
    write(
        "users", [(1, 30, [5, 6, 7]), (4, 0, [])], ("user_id", "age", "clubs")
    )
    items = [(11, "tea"), (12, "salt"), (13, "tea"), (14, None)]
    write("items", items, ("sku", "category"))
    tables = raw_tables.RawTables.open(folder)
    return types.SimpleNamespace(
        folder=folder, users=log_users.LogUsers(tables, "test")
    )


def check(found, user, end):
    expected = history(user, end)
    assert found["behavior_item_ids"].tolist() == [row[1] for row in expected]
    assert found["behaviors"]["what"].tolist() == [
        stable_id("behavior_what", row[3]) for row in expected
    ]
    # Up to the request, which is later than the end by the delay.
    assert found["behaviors"]["ago"].tolist() == [
        end + 100 - row[2] for row in expected
    ]
    assert set(found["behaviors"]) == {"what", "ago"}


def test_histories_end_before_the_first_impression_of_the_split(world):
    ids, ends = world.users.ends
    second = int(START.timestamp())
    assert ids.tolist() == [1, 3]
    assert (ends - second).tolist() == [10 * DAY - 100, 11 * DAY - 100]
    found = world.users.find(1)
    check(found, 1, 10 * DAY - 100)
    assert len(found["behavior_item_ids"]) == 3
    assert (found["times"] - second).tolist() == [
        row[2] for row in history(1, 10 * DAY - 100)
    ]
    assert found["user"] == {"age": 30, "clubs": [5, 6]}
    assert world.users.lengths.tolist() == [3, 0]
    nothing = world.users.find(3)
    check(nothing, 3, 11 * DAY - 100)
    assert nothing["user"] == {}
    with pytest.raises(DataError, match="no user 2 .* for example 1"):
        world.users.find(2)


def test_impressions_are_those_of_the_days_of_the_split(world):
    batches = [*world.users.impressions(1)]
    items = [item for b in batches for item in b["item_id"].to_pylist()]
    assert items == [12, 14]


def test_to_rank_a_user_all_events_of_the_split_count(world):
    from muse_tools.stores.log_users import find_user

    found = find_user(world.folder, 1)
    check(found, 1, 12 * DAY - 100)
    assert 12 in found["behavior_item_ids"]
    assert set(found) == {"user_id", "user", "behavior_item_ids", "behaviors"}
    assert find_user(world.folder, 4)["user"] == {"age": 0, "clubs": []}
    with pytest.raises(DataError, match="no user 9"):
        find_user(world.folder, 9)


def test_the_explorer_reads_logs_and_shows_texts(world):
    from muse_tools.explore import ExplorerData

    data = ExplorerData(world.folder)
    assert [tuple(one) for one in data.listed] == [(1, 3), (3, 0)]
    assert data.num_users == 2
    assert [tuple(one) for one in data.impressions(1)] == [
        (12, False, 1),
        (14, True, 1),
    ]
    user = data.user(1)
    words = data.words
    assert words.of_all("user", user["user"]) == {"age": "30", "clubs": "5, 6"}
    assert words.items([13, 14, 99]) == [{"category": "tea"}, {}, {}]
    assert data.names([12, 14]) == [("item 12", "salt"), ("item 14", "")]
    what = [words.behavior("what", v) for v in user["behaviors"]["what"]]
    assert what == ["order", "click", "order"]
    ago = [words.behavior("ago", v) for v in user["behaviors"]["ago"]]
    assert ago == ["6 days before", "1 day before", "1.68 minutes before"]
    assert words.time(int(START.timestamp()) + 60) == "2026-03-01 00:01"
