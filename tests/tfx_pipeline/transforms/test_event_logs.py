"""Histories from event logs, against an oracle row by row, and by property."""

from __future__ import annotations

import datetime
import json
import pathlib
import tempfile
import zoneinfo

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tfx.types import standard_artifacts

from schemas import ranking_schema
from schemas.hashing import stable_id
from tests.tfx_pipeline.transforms.test_request_join import read_examples
from tfx_pipeline.components.request_example_gen import RequestExampleGen

pytestmark = pytest.mark.tf

START = datetime.datetime(2026, 3, 28, 12, tzinfo=datetime.timezone.utc)
SCHEMA = """
name: shop
user: {{column: uid, type: string}}
item: {{column: sku, type: string}}
labels: {{click: clicked}}
features:
  user: {{age: }}
  item: {{category: {{type: string}}, brand: }}
  behavior: {{category: , brand: paid_brand}}
  matches: [category]
log:
  time: shown_at
  request: "{request}"
  event_time: at
  known_time: arrived
  action: what
  keep: [click, order]
  as_of: {as_of}
  delay_s: {delay}
  max_history: 3
  timezone: Europe/Berlin
  train: [2026-03-28, 2026-03-29]
  eval: [2026-03-30, 2026-03-30]
"""


def moment(seconds):
    return START + datetime.timedelta(seconds=seconds)


# Around the night on which Berlin's clocks change, and around both splits.
_TIMES = st.one_of(
    st.integers(-20_000, 5),
    st.integers(36_000, 36_010),
    st.integers(40_000, 250_000),
)
_USERS = st.sampled_from(["ann", "bob", "eve"])
_SKUS = st.sampled_from(["a", "b", "c", "nowhere"])


@st.composite
def worlds(draw):
    events = draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "uid": _USERS,
                    "sku": _SKUS,
                    "at": _TIMES,
                    "arrived": st.one_of(st.just(0), st.integers(0, 50_000)),
                    "what": st.sampled_from(["click", "order", "view"]),
                    "paid_brand": st.integers(0, 3),
                }
            ),
            min_size=1,
            max_size=25,
        )
    )
    events += draw(st.lists(st.sampled_from(events), max_size=3))
    shown = draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "uid": _USERS,
                    "sku": st.sampled_from(["a", "b", "c"]),
                    "shown_at": _TIMES,
                    "visit": st.integers(1, 3),
                    "clicked": st.integers(0, 1),
                }
            ),
            max_size=20,
        )
    )
    shown += [
        {"uid": "ann", "sku": "a", "shown_at": t, "visit": 1, "clicked": 1}
        for t in (100, 150_000)
    ]
    return events, shown


def write(folder, events, shown, as_of, delay, request):
    folder = pathlib.Path(folder)

    def table(name, rows, **times):
        columns = {key: [row[key] for row in rows] for key in rows[0]}
        for key in times:
            columns[key] = pa.array(
                [moment(s) for s in columns[key]], times[key]
            )
        folder.mkdir(exist_ok=True)
        pq.write_table(
            pa.table(columns), folder / f"{name}.parquet", row_group_size=7
        )

    naive = pa.timestamp("ms", "UTC")
    arrived = [{**e, "arrived": e["at"] + e["arrived"]} for e in events]
    table("events", arrived, at=naive, arrived=naive)
    table("impressions", shown, shown_at=naive)
    table(
        "items",
        [
            {"sku": "a", "category": "tea", "brand": 7},
            {"sku": "b", "category": "", "brand": 0},
            {"sku": "c", "category": "tea", "brand": 9},
        ],
    )
    table("users", [{"uid": u, "age": a} for u, a in AGES.items()])
    schema = SCHEMA.format(as_of=as_of, delay=delay, request=request)
    (folder / "schema.yaml").write_text(schema)


AGES = {"ann": 30, "bob": 0, "eve": 41}
CATEGORY = {"a": "tea", "b": "", "c": "tea"}
BRAND = {"a": 7, "b": 0, "c": 9}


def run(folder, max_candidates=4):
    artifact = standard_artifacts.Examples()
    artifact.uri = str(folder / "examples")
    RequestExampleGen.test_call(
        artifact,
        raw_dir=str(folder),
        raw_fingerprint="",
        rejected_dir=str(folder / "rejected"),
        max_candidates=max_candidates,
        max_rejected_fraction=1.0,
        join_partitions=2,
        imported_embeddings=False,
        beam_pipeline=beam.Pipeline(),
    )
    assert json.loads(artifact.split_names) == ["train", "eval"]
    return {
        split: read_examples(folder / "examples" / f"Split-{split}")
        for split in ("train", "eval")
    }, json.loads((folder / "rejected" / "counts.json").read_text())


def day(seconds):
    return moment(seconds).astimezone(zoneinfo.ZoneInfo("Europe/Berlin")).date()


def oracle(events, shown, as_of, delay, request, max_candidates=4):
    """Requests by split: plain loops over rows."""
    kept, seen = [], set()
    for event in events:
        row = tuple(event.values())
        if event["what"] != "view" and row not in seen:
            kept.append(event)
        seen.add(row)
    splits = {
        "train": [datetime.date(2026, 3, 28), datetime.date(2026, 3, 29)],
        "eval": [datetime.date(2026, 3, 30)],
    }
    found = {}
    for split, days in splits.items():
        groups = {}
        for row in shown:
            if day(row["shown_at"]) not in days:
                continue
            key = (
                day(row["shown_at"])
                if as_of == "day"
                else row["visit"]
                if request
                else row["shown_at"]
            )
            groups.setdefault((row["uid"], key), []).append(row)
        requests = []
        for (user, key), rows in groups.items():
            if as_of == "day":
                midnight = datetime.datetime.combine(
                    key, datetime.time(), zoneinfo.ZoneInfo("Europe/Berlin")
                )
                end = (midnight - START).total_seconds()
            else:
                end = min(row["shown_at"] for row in rows)
            known = [
                (max(e["at"], e["at"] + e["arrived"]), place, e)
                for place, e in enumerate(kept)
                if e["uid"] == user
            ]
            before = [
                e
                for time, _, e in sorted(known, key=lambda one: one[:2])
                if time < end - delay
            ][-3:]
            for first in range(0, len(rows), max_candidates):
                part = rows[first : first + max_candidates]
                requests.append(
                    {
                        "user_id": [stable_id("user_id", user)],
                        "user_age": [AGES[user]],
                        "behavior_item_ids": [
                            stable_id("item_id", e["sku"]) for e in before
                        ],
                        "behavior_category": [
                            stable_id(
                                "item_category", CATEGORY.get(e["sku"], "")
                            )
                            for e in before
                        ],
                        "behavior_brand": [e["paid_brand"] for e in before],
                        "candidate_item_ids": [
                            stable_id("item_id", r["sku"]) for r in part
                        ],
                        "candidate_category": [
                            stable_id("item_category", CATEGORY[r["sku"]])
                            for r in part
                        ],
                        "candidate_brand": [BRAND[r["sku"]] for r in part],
                        "clicks": [r["clicked"] for r in part],
                    }
                )
        found[split] = requests
    return found


def ordered(examples):
    return sorted(
        (
            {k: v for k, v in one.items() if k != "candidate_popularity"}
            for one in examples
        ),
        key=repr,
    )


def normalized(examples):
    return [dict(sorted(one.items())) for one in examples]


@pytest.mark.once
@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    # Each run is a Beam pipeline: shrinking would take an hour.
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(
    worlds(),
    st.sampled_from(["request", "day"]),
    st.sampled_from([0, 1, 3600]),
    st.sampled_from(["", "visit"]),
)
def test_logs_give_the_requests_of_the_oracle(world, as_of, delay, request):
    events, shown = world
    expected = oracle(events, shown, as_of, delay, request)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        write(folder, events, shown, as_of, delay, request)
        if not all(expected.values()):
            return
        examples, counts = run(folder)
    for split, requests in expected.items():
        assert ordered(normalized(examples[split])) == ordered(
            normalized(requests)
        )
    assert counts["read/events"] == len(events)


@pytest.mark.once
@settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    # Each run is a Beam pipeline: shrinking would take an hour.
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(worlds(), st.sampled_from(["request", "day"]))
def test_nothing_at_or_after_an_impression_reaches_it(world, as_of):
    """What happens later is planted; no Example of before changes."""
    events, shown = world
    moments = sorted({row["shown_at"] for row in shown})
    later = [
        {
            "uid": user,
            "sku": "a",
            "at": time + more,
            "arrived": 0,
            "what": "order",
            "paid_brand": 99,
        }
        for user in AGES
        for time in moments
        for more in (0, 1)
    ]
    # Behind the last impression nothing may change at all; in front of it,
    # only requests that come later than what was planted.
    last = moments[-1]
    planted = [e for e in later if e["at"] >= last]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for number, more in enumerate(([], planted)):
            place = pathlib.Path(folder) / str(number)
            write(place, events + more, shown, as_of, 0, "")
            found.append(run(place)[0])
    for split in ("train", "eval"):
        one, other = (ordered(normalized(some[split])) for some in found)
        assert one == other


def test_rejected_events_are_kept_and_counted(tmp_path):
    event = {
        "uid": "ann",
        "sku": "a",
        "at": 0,
        "arrived": 0,
        "what": "click",
        "paid_brand": 1,
    }
    shown = [
        {"uid": "ann", "sku": "a", "shown_at": t, "visit": 1, "clicked": 1}
        for t in (100, 150_000, 900_000)
    ]
    write(
        tmp_path, [event, event, {**event, "uid": ""}], shown, "request", 0, ""
    )
    table = pq.read_table(tmp_path / "impressions.parquet")
    place = table.schema.get_field_index("shown_at")
    times = table["shown_at"].to_pylist() + [None]
    rows = pa.concat_tables([table, table.slice(0, 1)])
    times = pa.array(times, table.schema.field("shown_at").type)
    pq.write_table(
        rows.set_column(place, "shown_at", times),
        tmp_path / "impressions.parquet",
    )
    _, counts = run(tmp_path)
    assert counts["rejected/train_samples/null"] == 1
    assert counts["rejected/events/duplicate event"] == 1
    assert counts["rejected/events/id is 0 (missing)"] == 1
    assert counts["read/impressions_of_other_days"] == 1
    rows = [
        row
        for path in sorted((tmp_path / "rejected").glob("events-*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]
    assert sorted(row["reason"] for row in rows) == [
        "duplicate event",
        "id is 0 (missing)",
    ]


def test_a_log_is_refused_for_days_out_of_order(tmp_path):
    text = SCHEMA.format(as_of="day", delay=0, request="")
    path = tmp_path / "schema.yaml"
    path.write_text(text.replace("eval: [2026-03-30", "eval: [2026-03-29"))
    with pytest.raises(ranking_schema.ConfigError, match="on later days"):
        ranking_schema.load(path)


def test_events_without_an_action_may_be_repeated():
    from tfx_pipeline.transforms import event_histories, steps

    events = pa.RecordBatch.from_pydict(
        {
            "user_id": [1, 1, 1],
            "time": [5, 5, 5],
            "action": pa.array([None, "click", None]),
            steps.POSITION: [0, 1, 2],
        }
    )
    found = event_histories.is_repeated(events)
    assert found.tolist() == [False, False, True]
