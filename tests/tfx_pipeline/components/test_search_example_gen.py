"""SearchExampleGen against a row-by-row oracle in plain Python."""

from __future__ import annotations

import collections
import json
import math

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from tfx.types import standard_artifacts

from muse_tools.datasets import search_tables, text_features
from muse_tools.datasets.errors import DataError
from muse_tools.datasets.item_content import ItemContent, ItemContentWriter
from tfx_pipeline.components import search_example_gen
from tfx_pipeline.components.artifacts import CONTENT_DIR, ItemContentArtifact
from tfx_pipeline.components.search_example_gen import SearchExampleGen

pytestmark = pytest.mark.tf

LOWEST = -(2**63)
ITEMS = (LOWEST, -4, 1, 2, 3, 2**63 - 1)
SCHEMA = pa.schema(
    [
        ("query_id", pa.int64()),
        ("time", pa.int64()),
        ("query_image_vector", pa.list_(pa.float32())),
        ("query_text", pa.string()),
        ("purchased_item_id", pa.int64()),
        ("clicked_item_ids", pa.list_(pa.int64())),
    ]
)


def write_content(folder, modalities=None, encoder=""):
    modalities = modalities or {"image": 2}
    with ItemContentWriter(
        folder / CONTENT_DIR, modalities, encoder=encoder
    ) as writer:
        writer.add(
            ITEMS, {m: np.ones((len(ITEMS), w)) for m, w in modalities.items()}
        )
    artifact = ItemContentArtifact()
    artifact.uri = str(folder)
    return artifact


def random_events(count, seed=0):
    rng = np.random.default_rng(seed)
    strange = [None, 0, 99]
    rows = []
    for number in range(count):
        odd = rng.random() < 0.3
        vectors = [[1.0, 2.0], [-0.5, 0.25], None]
        if odd:
            vectors += [[1.0], [math.inf, 1.0], [0.0, 0.0], [1.0, None], []]
        items = [*ITEMS, *(strange if odd else [])]
        clicked = rng.choice(len(ITEMS) + 2, rng.integers(0, 5)).tolist()
        rows.append(
            {
                "query_id": number * 7 - 50,
                "time": int(rng.integers(0, count)),
                "query_image_vector": vectors[rng.integers(len(vectors))],
                "query_text": ["Milk", "beer, cold", "?", None][
                    rng.integers(4)
                ],
                "purchased_item_id": items[rng.integers(len(items))],
                "clicked_item_ids": [[*ITEMS, 99, 0][i] for i in clicked],
            }
        )
    rows[3]["query_id"], rows[5]["time"] = None, None
    rows[6]["clicked_item_ids"] = [1, None]
    return rows


def write_events(folder, rows):
    table = pa.table(
        [pa.array([r[f.name] for r in rows], f.type) for f in SCHEMA],
        schema=SCHEMA,
    )
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        table, folder / "search_events.parquet", row_group_size=len(rows) // 3
    )


def reason_of(row):
    """Why a row is rejected, or None; rules written out one by one."""
    vector, text = row["query_image_vector"], row["query_text"]
    ids = [row["query_id"], row["purchased_item_id"]]
    if None in [*ids, row["time"], *(vector or []), *row["clicked_item_ids"]]:
        return "null"
    if 0 in ids:
        return "id is 0 (missing)"
    if vector and len(vector) != 2:
        return "vector of another dimension"
    if vector and not all(map(math.isfinite, vector)):
        return "vector with NaN or infinity"
    if vector and not any(vector):
        return "zero vector"
    if not vector and not text:
        return "no vector and no text"
    if row["purchased_item_id"] not in ITEMS:
        return "purchased item without content"
    if not vector and text == "?":
        return "no vector and no text"
    return None


def run(tmp_path, rows, content=None, **changes):
    """Runs the executor; returns examples by split, counts and rejects."""
    if rows is not None:
        write_events(tmp_path / "raw", rows)
    artifact = standard_artifacts.Examples()
    artifact.uri = str(tmp_path / "examples")
    SearchExampleGen.test_call(
        content or write_content(tmp_path / "content"),
        artifact,
        **{
            "raw_dir": str(tmp_path),
            "raw_fingerprint": "",
            "rejected_dir": str(tmp_path / "rejected"),
            "eval_fraction": 0.2,
            "max_rejected_fraction": 1.0,
            "beam_pipeline": beam.Pipeline(),
            **changes,
        },
    )
    assert json.loads(artifact.split_names) == ["train", "eval"]
    counts = json.loads((tmp_path / "rejected" / "counts.json").read_text())
    examples = {
        split: [
            parse(record.numpy())
            for record in tf.data.TFRecordDataset(
                sorted(
                    str(p)
                    for p in (
                        tmp_path / "examples" / f"Split-{split}"
                    ).iterdir()
                ),
                compression_type="GZIP",
            )
        ]
        for split in ("train", "eval")
    }
    return examples, counts


def parse(record):
    found = tf.train.Example.FromString(record).features.feature
    return {
        name: list(feature.int64_list.value or feature.float_list.value)
        for name, feature in found.items()
    }


def test_every_event_is_where_the_oracle_puts_it(tmp_path):
    rows = random_events(240)
    examples, counts = run(tmp_path, rows)
    encode = text_features.HashedNgrams()
    wanted: dict = {}
    reasons: collections.Counter = collections.Counter()
    for row in rows:
        reason = reason_of(row)
        if reason:
            reasons[reason] += 1
            continue
        clicked = [
            item
            for item in dict.fromkeys(row["clicked_item_ids"])
            if item in ITEMS and item != row["purchased_item_id"]
        ]
        wanted[row["query_id"]] = {
            "query_id": [row["query_id"]],
            "time": [row["time"]],
            "purchased_item_id": [row["purchased_item_id"]],
            "clicked_item_ids": clicked,
            "query_image": row["query_image_vector"] or [0.0, 0.0],
            "query_text": encode([row["query_text"] or ""])[0].tolist(),
        }
    assert len(reasons) == 7 and len(wanted) > 100
    found = {e["query_id"][0]: e for part in examples.values() for e in part}
    assert found == wanted
    assert len(examples["train"]) + len(examples["eval"]) == len(wanted)
    newest = max(e["time"][0] for e in examples["train"])
    assert newest < min(e["time"][0] for e in examples["eval"])
    assert 0.15 < len(examples["eval"]) / len(wanted) < 0.25
    assert {
        k.rpartition("/")[2]: v
        for k, v in counts.items()
        if k.startswith("rejected/search_events/")
    } == reasons
    assert counts["read/search_events"] == 240
    dropped = sum(
        v for k, v in counts.items() if k.startswith("dropped_clicks/")
    )
    assert dropped == sum(
        len(row["clicked_item_ids"]) for row in rows if not reason_of(row)
    ) - sum(len(e["clicked_item_ids"]) for e in wanted.values())
    kept = collections.Counter(
        row["reason"]
        for path in (tmp_path / "rejected").glob("*.parquet")
        for row in pq.read_table(path).to_pylist()
    )
    assert kept == reasons


def test_order_is_mixed_and_does_not_depend_on_the_table(tmp_path):
    rows = [
        {
            "query_id": n,
            "time": n,
            "query_image_vector": [1.0, float(n)],
            "query_text": None,
            "purchased_item_id": 1,
            "clicked_item_ids": [],
        }
        for n in range(1, 61)
    ]
    first, _ = run(tmp_path / "a", rows)
    second, _ = run(tmp_path / "b", rows[::-1])
    assert first == second
    order = [e["query_id"][0] for e in first["train"]]
    assert sorted(order) == list(range(1, 49)) != order
    assert all(e["clicked_item_ids"] == [] for e in first["train"])


def test_too_many_rejected_events_fail_but_stay(tmp_path):
    rows = random_events(60)
    with pytest.raises(DataError) as error:
        run(tmp_path, rows, max_rejected_fraction=0.01)
    assert error.value.code == "TOO_MANY_REJECTED"
    assert "scl.max_rejected_fraction" in error.value.hint
    assert list((tmp_path / "rejected").glob("search_events-*.parquet"))


@pytest.mark.parametrize(
    ("times", "fraction", "first"),
    [
        (range(10), 0.2, 8),
        (range(10), 0.01, 9),
        (range(10), 0.99, 1),
        ([3, 1, 2, None, 3, 3, 1], 0.1, 3),
        ([1, 1, 1, 1, 2], 0.9, 2),
        ([5] * 50 + [6] * 30 + [7] * 20, 0.4, 6),
    ],
)
def test_events_of_one_time_stay_together(tmp_path, times, fraction, first):
    rows = random_events(len(times) + 7)[7:]
    for row, time in zip(rows, times, strict=True):
        row["time"] = time
    write_events(tmp_path, rows)
    table = search_tables.open_table(tmp_path, "search_events")
    assert search_example_gen.first_eval_time(table, fraction) == first
    share = np.mean([t >= first for t in times if t is not None])
    assert 0 < share < 1


def test_events_without_times_cannot_be_split(tmp_path):
    rows = [{**row, "time": 8} for row in random_events(20)]
    write_events(tmp_path, rows)
    table = search_tables.open_table(tmp_path, "search_events")
    with pytest.raises(DataError) as error:
        search_example_gen.first_eval_time(table, 0.1)
    assert error.value.code == "NO_TIME_SPLIT"


def test_queries_are_as_wide_as_items_and_encoded_alike(tmp_path):
    write_events(tmp_path, random_events(30))
    table = search_tables.open_table(tmp_path, "search_events")
    name = text_features.load_encoder().name

    def widths(folder, modalities, encoder=""):
        write_content(tmp_path / folder, modalities, encoder)
        content = ItemContent.open(tmp_path / folder / CONTENT_DIR)
        return search_example_gen.query_widths(table, content, "")

    # The items' width wins over what most rows have.
    assert widths("a", {"image": 5}) == {"image": 5}
    assert widths("b", {"other": 3}) == {"image": 2}
    assert widths("c", {"text": 512}, name) == {"image": 2}
    assert widths("d", {"text": 512}) == {"image": 2}
    for folder, encoder, width in (("e", "mine:f", 512), ("f", "", 8)):
        with pytest.raises(DataError) as error:
            widths(folder, {"text": width}, encoder)
        assert error.value.code == "DIFFERENT_ENCODERS"
        assert name in error.value.message
