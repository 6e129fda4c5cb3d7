"""ItemContentGen against a dictionary."""

from __future__ import annotations

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from muse_tools.datasets import text_features
from muse_tools.datasets.errors import DataError
from tfx_pipeline.components import item_content_gen
from tfx_pipeline.components.artifacts import CONTENT_DIR, ItemContentArtifact

SCHEMA = pa.schema(
    [
        ("item_id", pa.int64()),
        ("image_vector", pa.list_(pa.float32())),
        ("text", pa.string()),
    ]
)
NAN = math.nan


def write(folder, rows, schema=SCHEMA, **options):
    folder.mkdir()
    columns = zip(*rows, strict=True)
    table = pa.table(
        [
            pa.array(column, field.type)
            for column, field in zip(columns, schema, strict=True)
        ],
        schema=schema,
    )
    pq.write_table(table, folder / "item_content.parquet", **options)
    return folder


def build(raw, tmp_path, **options):
    content = item_content_gen.build_item_content(
        raw, tmp_path / "content", tmp_path / "rejected", **options
    )
    counts = json.loads((tmp_path / "rejected" / "counts.json").read_text())
    return content, counts


def test_first_good_rows_are_kept_and_the_rest_rejected(tmp_path):
    rows = [
        (7, [1.0, 2.0], "Milk"),
        (None, [1.0, 2.0], "a"),
        (0, [1.0, 2.0], "a"),
        (5, [1.0], "too short, so not the first row of 5"),
        (-3, None, "beer"),
        (5, [0.5, -0.5], None),
        (7, [9.0, 9.0], "second row of 7"),
        (8, [NAN, 1.0], None),
        (9, [0.0, 0.0], "a"),
        (10, None, None),
        (11, None, "?!"),
        (12, [3.0, 3.0], "?!"),
    ]
    raw = write(tmp_path / "raw", rows, row_group_size=5)
    content, counts = build(raw, tmp_path)
    assert content.item_ids.tolist() == [-3, 5, 7, 12]
    assert content.modalities == {"image": 2, "text": 512}
    found = content.features(np.arange(4))
    assert found["image"].tolist() == [[0, 0], [0.5, -0.5], [1, 2], [3, 3]]
    milk, beer = text_features.HashedNgrams()(["Milk", "beer"])
    np.testing.assert_allclose(found["text"][[2, 0]], [milk, beer], atol=1e-3)
    assert not found["text"][[1, 3]].any()
    assert content.manifest["encoder"] == "hashed_ngrams(dim=512, seed=0)"
    reasons = {
        "null": 1,
        "id is 0 (missing)": 1,
        "vector of another dimension": 1,
        "vector with NaN or infinity": 1,
        "zero vector": 1,
        "no vector and no text": 2,
        "duplicate item row": 1,
    }
    assert counts == {
        "read/item_content": 12,
        "items": 4,
        "items_with/image": 3,
        "items_with/text": 2,
        **{f"rejected/item_content/{k}": v for k, v in reasons.items()},
    }
    assert counts["items"] + sum(reasons.values()) == 12
    (kept,) = (tmp_path / "rejected").glob("*.parquet")
    assert [
        (row["item_id"], row["reason"])
        for row in pq.read_table(kept).to_pylist()
    ].count((7, "duplicate item row")) == 1


def test_random_vectors_in_shards(tmp_path):
    rng = np.random.default_rng(0)
    ids = rng.permutation(rng.integers(-(2**63), 2**63 - 1, 500))
    vectors = rng.normal(size=(500, 3)).astype(np.float32)
    (tmp_path / "raw").mkdir()
    for shard in range(3):
        pq.write_table(
            pa.table(
                {
                    "item_id": ids[shard::3],
                    "x_vector": vectors[shard::3].astype(np.float64).tolist(),
                }
            ),
            tmp_path / "raw" / f"item_content-{shard}.parquet",
            row_group_size=50,
        )
    content, counts = build(tmp_path / "raw", tmp_path)
    assert counts["items"] == counts["read/item_content"] == 500
    rows = content.rows_of(ids)
    np.testing.assert_array_equal(content.features(rows)["x"], vectors)


def test_rejected_rows_are_kept_when_nothing_is_usable(tmp_path):
    raw = write(tmp_path / "raw", [(0, [1.0], None), (2, None, None)])
    with pytest.raises(DataError, match="all 2 rows were rejected") as error:
        build(raw, tmp_path)
    assert "1 id is 0 (missing), 1 no vector and no text" in str(error.value)
    assert not (tmp_path / "content").exists()
    (kept,) = (tmp_path / "rejected").glob("*.parquet")
    assert pq.read_table(kept).num_rows == 2


def test_a_failure_leaves_the_last_rejected_rows(tmp_path, monkeypatch):
    raw = write(tmp_path / "raw", [(1, [1.0], None), (0, [1.0], None)])
    build(raw, tmp_path)
    before = sorted(p.name for p in (tmp_path / "rejected").iterdir())

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(item_content_gen.ItemContentWriter, "add", fail)
    (tmp_path / "content").rename(tmp_path / "old")
    with pytest.raises(OSError, match="disk full"):
        build(raw, tmp_path)
    after = sorted(p.name for p in (tmp_path / "rejected").iterdir())
    assert after == before == ["counts.json", "item_content-0.parquet"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "old",
        "raw",
        "rejected",
    ]


def test_the_component_writes_the_artifact(tmp_path):
    raw = write(tmp_path / "raw", [(4, [1.0], "a"), (2, [2.0], "b")])
    artifact = ItemContentArtifact()
    artifact.uri = str(tmp_path / "artifact")
    item_content_gen.ItemContentGen.test_call(
        artifact,
        raw_dir=str(raw),
        raw_fingerprint="",
        rejected_dir=str(tmp_path / "rejected"),
        text_encoder="hashed_ngrams",
    )
    assert artifact.get_int_custom_property("num_items") == 2
    content = item_content_gen.ItemContent.open(
        tmp_path / "artifact" / CONTENT_DIR, verify=True
    )
    assert content.item_ids.tolist() == [2, 4]
