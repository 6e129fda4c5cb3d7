"""Users with features of every kind, from a log and from a table."""

from __future__ import annotations

import datetime
import math
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from muse_tools.datasets.errors import DataError
from muse_tools.stores import user_store
from schemas.hashing import stable_id
from serving.stores import BehaviorStore, Kind, open_store

LOG = """
name: shop
user: {column: uid, type: string}
item: {column: sku, type: string}
features:
  user:
    city: {type: string}
    tags: {type: string, many: 3}
    taste: {type: vector, dim: 2}
    height: {type: float}
  item: {category: {type: string}}
  behavior:
    category:
    action: {column: what, type: string}
    price: {type: float, buckets: 4}
    age: {time: since}
log:
  event_time: at
  train: [2026-03-01, 2026-03-02]
  eval: [2026-03-03, 2026-03-03]
"""
START = datetime.datetime(2026, 3, 1, tzinfo=datetime.timezone.utc)
USERS = [
    ("ann", "rome", ["x", "", "y", "z"], [1.0, -2.0], 1.75),
    ("bob", "", [], None, None),
]
EVENTS = [
    ("ann", "tea", 10, "click", 2.5),
    ("ann", "tea", 5, "order", None),
    ("eve", "salt", 7, None, 4.0),
]
TABLE = LOG.replace("    age: {time: since}\n", "").partition("log:")[0]
LAYOUT = {
    "city": Kind(),
    "tags": Kind("int64", 3),
    "taste": Kind("float32", 2),
    "height": Kind("float32"),
}


def write_log(folder: pathlib.Path) -> None:
    uid, sku, at, what, price = zip(*EVENTS, strict=True)
    times = [START + datetime.timedelta(seconds=second) for second in at]
    (folder / "schema.yaml").write_text(LOG)
    pq.write_table(
        pa.table(
            {"uid": uid, "sku": sku, "what": what}
            | {"at": pa.array(times, pa.timestamp("ms", "UTC"))}
            | {"price": pa.array(price, pa.float32())}
        ),
        folder / "events.parquet",
    )
    pq.write_table(users_table(), folder / "users.parquet")


def users_table() -> pa.Table:
    columns = zip(*USERS, strict=True)
    names = ("uid", "city", "tags", "taste", "height")
    table = dict(zip(names, map(list, columns), strict=True))
    table["taste"] = pa.array(table["taste"], pa.list_(pa.float32()))
    return pa.table(table)


def write_table(folder: pathlib.Path) -> None:
    """Ann's history as the log makes it; eve is in logs alone."""
    (folder / "schema.yaml").write_text(TABLE)
    table = users_table()
    prices = pa.array([[None, 2.5], []], pa.list_(pa.float32()))
    for name, lists in (
        ("behavior_item_ids", pa.array([["tea", "tea"], []])),
        ("what", pa.array([["order", "click"], []])),
        ("price", prices),
    ):
        table = table.append_column(name, lists)
    pq.write_table(table, folder / "test_user_features.parquet")


def load(folder: pathlib.Path) -> BehaviorStore:
    users = user_store.Users.find(folder)
    assert users.layout.user == LAYOUT
    assert users.layout.behaviors == {
        "action": Kind(),
        "price": Kind("float32"),
    }
    store = open_store(f"lmdb:{folder}/store", users.layout)
    assert user_store.load_table(store, users).rejected == {}
    return store


@pytest.mark.tf
def test_users_of_a_log(tmp_path):
    write_log(tmp_path)
    with load(tmp_path) as store:
        check_ann_and_bob(store)
        eve = store.read(stable_id("user_id", "eve"))
        assert eve.behaviors["action"].tolist() == [0]
        assert eve.user["city"] == 0 and eve.user["tags"].tolist() == [0] * 3
        assert np.isnan(eve.user["taste"]).all()
        ann = store.read(stable_id("user_id", "ann"))
        start = int(START.timestamp())
        assert ann.times.tolist() == [start + 5, start + 10]


def test_users_of_a_table(tmp_path):
    write_table(tmp_path)
    with load(tmp_path) as store:
        check_ann_and_bob(store)
        assert store.read(stable_id("user_id", "ann")).times is None


def check_ann_and_bob(store: BehaviorStore) -> None:
    ann = store.read(stable_id("user_id", "ann"))
    assert ann.user["city"] == stable_id("user_city", "rome")
    assert ann.user["tags"].tolist() == [
        stable_id("user_tags", "x"),
        0,
        stable_id("user_tags", "y"),
    ]
    assert ann.user["taste"].tolist() == [1, -2]
    assert ann.user["height"] == 1.75
    assert ann.item_ids.tolist() == [stable_id("item_id", "tea")] * 2
    assert ann.behaviors["action"].tolist() == [
        stable_id("behavior_action", "order"),
        stable_id("behavior_action", "click"),
    ]
    assert repr(ann.behaviors["price"].tolist()) == "[nan, 2.5]"
    bob = store.read(stable_id("user_id", "bob"))
    assert len(bob) == 0 and bob.user["city"] == 0
    assert bob.user["tags"].tolist() == [0, 0, 0]
    assert np.isnan(bob.user["taste"]).all() and math.isnan(bob.user["height"])


def test_a_store_of_other_data(tmp_path):
    """The first feature that differs is named, before anything is written."""
    write_table(tmp_path)
    load(tmp_path).close()
    text = TABLE.replace("many: 3", "many: 2")
    (tmp_path / "schema.yaml").write_text(text)
    users = user_store.Users.find(tmp_path)
    with open_store(f"lmdb:{tmp_path}/store") as store:
        told = "user_tags: the store keeps .* of 3, .*; the data has .* of 2,"
        with pytest.raises(DataError, match=told):
            user_store.load_table(store, users)
