"""Users of an event log in a store, against plain loops over the events."""

from __future__ import annotations

import pathlib
import tempfile

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings

from muse_tools.stores import user_store
from schemas import ranking_schema
from schemas.hashing import stable_id
from serving.stores import Layout, open_store
from tests.tfx_pipeline.transforms.test_event_logs import (
    AGES,
    moment,
    worlds,
    write,
)

pytestmark = pytest.mark.tf


def newest(events, user):
    """The last three behaviors of a user, as the declaration says."""
    kept, seen = [], set()
    for place, event in enumerate(events):
        row = tuple(event.values())
        if event["uid"] == user and event["what"] != "view" and row not in seen:
            known = max(event["at"], event["at"] + event["arrived"])
            kept.append((known, place, event))
        seen.add(row)
    return [event for *_, event in sorted(kept, key=lambda one: one[:2])][-3:]


@settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(worlds())
def test_a_store_gets_the_newest_events_of_every_user(world):
    events, shown = world
    broken = {**events[0], "uid": ""}
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        write(folder, [*events, broken], shown, "request", 0, "")
        users = user_store.Users.find(folder)
        # The category is the item's own, and is not stored.
        declared = ranking_schema.load(folder / "schema.yaml")
        assert users.layout == Layout(
            ("age",), ("brand",), True, declared.yaml()
        )
        with open_store(f"lmdb:{folder}/store", users.layout) as store:
            report = user_store.load_table(store, users)
            assert report.rejected == {"events/id is 0 (missing)": 1}
            for name, age in AGES.items():
                expected = newest(events, name)
                found = store.read(stable_id("user_id", name))
                assert found.user == {"age": age}
                assert found.item_ids.tolist() == [
                    stable_id("item_id", event["sku"]) for event in expected
                ]
                assert found.behaviors["brand"].tolist() == [
                    event["paid_brand"] for event in expected
                ]
                assert found.times.tolist() == [
                    int(moment(event["at"]).timestamp()) for event in expected
                ]
        (row,) = pq.read_table(
            folder / "events.rejected" / "events-0.parquet"
        ).to_pylist()
        assert row["reason"] == "id is 0 (missing)" and "sku" in row
