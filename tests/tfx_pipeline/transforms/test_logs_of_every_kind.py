"""Event logs with every kind of feature, against plain loops over rows."""

from __future__ import annotations

import datetime
import pathlib
import zoneinfo

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_data_validation.api import validation_api
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.types import standard_artifacts

from schemas import ranking_schema
from schemas.hashing import stable_id
from tests.tfx_pipeline.test_examples_schema import statistics
from tfx_pipeline.components.request_example_gen import RequestExampleGen
from tfx_pipeline.examples_schema import request_schema

pytestmark = pytest.mark.tf

ZONE = zoneinfo.ZoneInfo("Europe/Berlin")
# The night on which Berlin's clocks change is in between.
START = datetime.datetime(2026, 3, 28, 12, tzinfo=ZONE).timestamp()
DELAY = 60
SCHEMA = """
name: shop
user: {{column: uid, type: string}}
item: {{column: sku, type: string}}
labels:
  click: clicked
  order: {{column: rating, at_least: 4}}
  share: shared
weight: importance
features:
  user:
    age: {{type: float}}
    interests: {{type: string, many: 2}}
    taste: {{type: vector, dim: 2}}
  item:
    category: {{type: string}}
    tags: {{type: string, many: 2}}
    price: {{type: float}}
    grade: {{type: float, buckets: 3}}
    look: {{type: vector, dim: 3}}
  context:
    device: {{type: string}}
    hour: {{time: hour}}
    day: {{time: weekday}}
    load: {{type: float}}
    queries: {{many: 2, column: query_ids}}
  candidate: {{position: {{training_only: true}}, offer: {{type: float}}}}
  behavior:
    category:
    tags:
    grade: paid_grade
    action: {{type: string, column: what}}
    dwell: {{type: float, buckets: 4}}
    since: {{time: since}}
  matches: [category, tags]
log:
  time: shown_at
  request: visit
  event_time: at
  action: what
  keep: [click, order]
  as_of: {as_of}
  delay_s: {delay}
  max_history: 3
  timezone: Europe/Berlin
  train: [2026-03-28, 2026-03-29]
  eval: [2026-03-30, 2026-03-30]
"""
TYPES = {
    **dict.fromkeys(("interests", "tags"), pa.list_(pa.string())),
    **dict.fromkeys(("taste", "look"), pa.list_(pa.float64())),
    **dict.fromkeys(("age", "price", "grade", "load"), pa.float64()),
    **dict.fromkeys(("offer", "dwell", "paid_grade"), pa.float32()),
    "query_ids": pa.list_(pa.int64()),
    "shared": pa.bool_(),
}


def make(seed):
    rng = np.random.default_rng(seed)

    def one(*values):
        return values[rng.integers(len(values))]

    def some(most, *values):
        few = [one(*values) for _ in range(rng.integers(0, most + 1))]
        return one(few, few, few, None)

    def number():
        return one(float(np.float32(rng.normal(0, 9))), 0.5, None)

    def vector(dim):
        return one(None, *([rng.normal(size=dim).tolist()] * 3))

    def seconds():
        return int(one(rng.integers(0, 300), rng.integers(0, 210_000)))

    users = ["ann", "bob", "eve"]
    items = ["a", "b", "c", "d"]
    tables = {
        "users": [
            {
                "uid": user,
                "age": number(),
                "interests": some(4, "tea", "cars", "", None),
                "taste": vector(2),
            }
            for user in users
        ],
        "items": [
            {
                "sku": item,
                "category": one("x", "y", None),
                "tags": some(3, "new", "red", "big"),
                "price": number(),
                "grade": number(),
                "look": vector(3),
            }
            for item in items
        ],
        "events": [
            {
                "uid": one(*users),
                "sku": one(*items, "nowhere"),
                "at": seconds(),
                "what": one("click", "order", "view"),
                "paid_grade": number(),
                "dwell": number(),
            }
            for _ in range(60)
        ],
        "impressions": [
            {
                "uid": one(*users),
                "sku": one(*items),
                "shown_at": seconds(),
                "visit": int(rng.integers(1, 8)),
                "clicked": int(rng.integers(2)),
                "rating": int(rng.integers(1, 6)),
                "shared": bool(rng.integers(2)),
                "importance": float(np.float32(rng.random())),
                "device": one("phone", "desk", None),
                "load": number(),
                "query_ids": some(3, 5, 6, 7),
                "position": int(rng.integers(0, 4)),
                "offer": number(),
            }
            for _ in range(50)
        ],
    }
    return tables


def write(folder, tables, as_of):
    for name, rows in tables.items():
        columns = {}
        for key in rows[0]:
            values = [row[key] for row in rows]
            if key in ("at", "shown_at"):
                values = [int(START) + value for value in values]
            columns[key] = pa.array(values, TYPES.get(key))
        path = folder / f"{name}.parquet"
        pq.write_table(pa.table(columns), path, row_group_size=11)
    text = SCHEMA.format(as_of=as_of, delay=DELAY)
    (folder / "schema.yaml").write_text(text)


def float32(value):
    return "missing" if value is None else float(np.float32(value))


def vector_of(values, dim):
    return [float32(v) for v in (values or [None] * dim)]


def texts(field, values, many):
    """Ids of the first values of a list, filled up with 0."""
    ids = [stable_id(field, value or "") for value in (values or [])[:many]]
    return ids + [0] * (many - len(ids))


def flat(rows):
    return [value for row in rows for value in row]


def moment(seconds):
    return datetime.datetime.fromtimestamp(START + seconds, ZONE)


def oracle(tables, as_of, max_candidates=4):
    items = {row["sku"]: row for row in tables["items"]}
    users = {row["uid"]: row for row in tables["users"]}
    events, seen = [], set()
    for event in tables["events"]:
        row = tuple(event.values())
        if event["what"] != "view" and row not in seen:
            events.append(event)
        seen.add(row)
    found = {"train": [], "eval": []}
    groups = {}
    for row in tables["impressions"]:
        date = moment(row["shown_at"]).date()
        if date > datetime.date(2026, 3, 30):
            continue
        split = "eval" if date == datetime.date(2026, 3, 30) else "train"
        key = (split, row["uid"], date if as_of == "day" else row["visit"])
        groups.setdefault(key, []).append(row)
    for (split, user, key), rows in groups.items():
        if as_of == "day":
            midnight = datetime.datetime.combine(key, datetime.time(), ZONE)
            now = midnight.timestamp() - START
        else:
            now = min(row["shown_at"] for row in rows)
        end = now - DELAY
        mine = [e for e in events if e["uid"] == user and e["at"] < end]
        mine = sorted(mine, key=lambda event: event["at"])[-3:]
        for first in range(0, len(rows), max_candidates):
            part = rows[first : first + max_candidates]
            found[split].append(example(users[user], mine, part, items, now))
    return found


def example(user, behaviors, shown, items, now):
    def of_items(rows, key):
        return [items.get(row["sku"], {}).get(key) for row in rows]

    times = [moment(row["shown_at"]) for row in shown]
    return {
        "user_id": [stable_id("user_id", user["uid"])],
        "user_age": [float32(user["age"])],
        "user_interests": texts("user_interests", user["interests"], 2),
        "user_taste": vector_of(user["taste"], 2),
        "behavior_item_ids": [
            stable_id("item_id", b["sku"]) for b in behaviors
        ],
        "behavior_category": [
            stable_id("item_category", category or "")
            for category in of_items(behaviors, "category")
        ],
        "behavior_tags": flat(
            texts("item_tags", tags, 2) for tags in of_items(behaviors, "tags")
        ),
        "behavior_grade": [float32(b["paid_grade"]) for b in behaviors],
        "behavior_action": [
            stable_id("behavior_action", b["what"]) for b in behaviors
        ],
        "behavior_dwell": [float32(b["dwell"]) for b in behaviors],
        "behavior_since": [float32(now - b["at"]) for b in behaviors],
        "candidate_item_ids": [stable_id("item_id", s["sku"]) for s in shown],
        "candidate_category": [
            stable_id("item_category", category or "")
            for category in of_items(shown, "category")
        ],
        "candidate_tags": flat(
            texts("item_tags", tags, 2) for tags in of_items(shown, "tags")
        ),
        "candidate_price": [*map(float32, of_items(shown, "price"))],
        "candidate_grade": [*map(float32, of_items(shown, "grade"))],
        "candidate_look": flat(
            vector_of(look, 3) for look in of_items(shown, "look")
        ),
        "candidate_position": [s["position"] for s in shown],
        "candidate_offer": [float32(s["offer"]) for s in shown],
        "context_device": [
            stable_id("context_device", s["device"] or "") for s in shown
        ],
        "context_hour": [time.hour + 1 for time in times],
        "context_day": [time.isoweekday() for time in times],
        "context_load": [float32(s["load"]) for s in shown],
        "context_queries": flat(
            ((s["query_ids"] or []) + [0, 0])[:2] for s in shown
        ),
        "clicks": [s["clicked"] for s in shown],
        "label_order": [int(s["rating"] >= 4) for s in shown],
        "label_share": [int(s["shared"]) for s in shown],
        "weights": [s["importance"] for s in shown],
    }


def run(folder):
    artifact = standard_artifacts.Examples()
    artifact.uri = str(folder / "examples")
    RequestExampleGen.test_call(
        artifact,
        raw_dir=str(folder),
        raw_fingerprint="",
        rejected_dir=str(folder / "rejected"),
        max_candidates=4,
        max_rejected_fraction=0.0,
        join_partitions=2,
        imported_embeddings=False,
        beam_pipeline=beam.Pipeline(),
    )
    return {
        split: read(folder / "examples" / f"Split-{split}")
        for split in ("train", "eval")
    }


def records_of(split: pathlib.Path):
    files = sorted(map(str, split.glob("*.gz")))
    return tf.data.TFRecordDataset(files, compression_type="GZIP")


def read(split: pathlib.Path):
    found = []
    for record in records_of(split):
        values = tf.train.Example.FromString(record.numpy()).features.feature
        row = {}
        for name, one in values.items():
            kind = one.WhichOneof("kind")
            row[name] = list(getattr(one, kind).value) if kind else []
            if kind == "float_list":
                row[name] = [
                    "missing" if np.isnan(value) else value
                    for value in row[name]
                ]
        del row["candidate_popularity"]
        found.append(row)
    return found


def in_order(rows):
    return sorted((dict(sorted(row.items())) for row in rows), key=repr)


@pytest.mark.parametrize("as_of", ["request", "day"])
def test_examples_equal_those_of_plain_loops(tmp_path, as_of):
    tables = make(seed=len(as_of))
    write(tmp_path, tables, as_of)
    wanted = oracle(tables, as_of)
    found = run(tmp_path)
    for split, rows in wanted.items():
        assert len(rows) > 2
        assert any(row["behavior_item_ids"] for row in rows)
        assert in_order(found[split]) == in_order(rows)
    check_schema(tmp_path)


def check_schema(folder):
    """The schema of Examples says what was written, in every environment."""
    text = request_schema(ranking_schema.beside(folder))
    schema = text_format.Parse(text, schema_pb2.Schema())
    records = [r.numpy() for r in records_of(folder / "examples/Split-train")]
    of_training = {
        *("clicks", "label_order", "label_share", "weights"),
        *("candidate_popularity", "candidate_position"),
    }
    since = {"behavior_since"}
    for environment, lacking, wanted in (
        ("TRAINING", set(), set()),
        ("TRAINING", of_training, of_training),
        ("SERVING", of_training, set()),
        ("SERVING", of_training | since, since),
    ):
        found = validation_api.validate_statistics(
            statistics(records, lacking), schema, environment=environment
        )
        assert set(found.anomaly_info) == wanted, (environment, lacking)
