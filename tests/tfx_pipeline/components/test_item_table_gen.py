"""The ItemTable against a dictionary."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from muse_keras.tables import ItemTable, table_files
from muse_tools.datasets import raw_tables
from muse_tools.datasets.errors import DataError
from schemas.hashing import stable_id
from tfx_pipeline.components import item_table_gen
from tfx_pipeline.transforms import steps

LOWEST, HIGHEST = -(2**63), 2**63 - 1


def vector(value):
    return [(value + i) % 127 for i in range(128)]


def write(folder, features, vectors, rows_per_group=2):
    folder.mkdir()
    names = ["205", "206", "213", "214"]
    columns = list(zip(*features, strict=True)) or [[]] * 4
    pq.write_table(
        pa.table(
            [pa.array(column, pa.int64()) for column in columns], names=names
        ),
        folder / "item_features.parquet",
        row_group_size=rows_per_group,
    )
    pq.write_table(
        pa.table(
            [
                pa.array([item for item, _ in vectors], pa.int64()),
                pa.array([codes for _, codes in vectors], pa.list_(pa.int8())),
            ],
            names=["205", "205_c"],
        ),
        folder / "scl_embedding_int8_p90.parquet",
        row_group_size=rows_per_group,
    )
    return raw_tables.RawTables.open(folder)


def build(tables, tmp_path):
    table = item_table_gen.build_item_table(
        tables, tmp_path / "table", tmp_path / "rejected"
    )
    counts = json.loads((tmp_path / "rejected" / "counts.json").read_text())
    return table, counts


def test_union_of_both_tables_first_rows_and_rejects(tmp_path):
    features = [
        (5, 50, 51, 52),
        (HIGHEST, 1, None, 3),
        (5, 60, 61, 62),
        (-4, -40, LOWEST, 0),
        (0, 1, 1, 1),
        (None, 1, 1, 1),
        (None, 2, 2, 2),
    ]
    vectors = [
        (9, vector(9)),
        (5, vector(5)),
        (LOWEST, vector(1)),
        (9, vector(2)),
        (0, vector(3)),
        (None, vector(3)),
        (10, vector(3)[:127]),
        (11, None),
        (12, [None, *vector(3)[1:]]),
        (HIGHEST, [-127] * 128),
        (-4, [0] * 128),
    ]
    table, counts = build(write(tmp_path / "raw", features, vectors), tmp_path)
    assert table.item_ids.tolist() == [LOWEST, -4, 5, 9, HIGHEST]
    # Row 0 is the unknown item.
    none = [0] * 128
    assert np.asarray(table.codes).tolist() == [
        none,
        vector(1),
        none,
        vector(5),
        vector(9),
        [-127] * 128,
    ]
    assert {
        name: column.tolist() for name, column in table.features.items()
    } == {
        "category": [0, 0, -40, 50, 0, 1],
        "city": [0, 0, LOWEST, 51, 0, 0],
        "province": [0, 0, 0, 52, 0, 3],
    }
    assert table.rows(np.array([9, 0, 8, LOWEST, HIGHEST])).tolist() == [
        4,
        0,
        0,
        1,
        5,
    ]
    assert counts == {
        "read/item_features": 7,
        "rejected/item_features/duplicate item row": 1,
        "rejected/item_features/id is 0 (missing)": 1,
        "rejected/item_features/null": 2,
        "read/embeddings": 11,
        "rejected/embeddings/zero vector": 1,
        "rejected/embeddings/duplicate item row": 1,
        "rejected/embeddings/id is 0 (missing)": 1,
        "rejected/embeddings/null": 3,
        "rejected/embeddings/embedding length is not 128": 1,
        "items": 5,
        "items_without_embedding": 1,
        "items_without_features": 2,
    }
    kept = [
        (path.name.rpartition("-")[0], row["205"], row["reason"])
        for path in (tmp_path / "rejected").glob("*.parquet")
        for row in pq.read_table(path).to_pylist()
    ]
    assert sorted(kept, key=str) == sorted(
        [
            ("item_features", 5, "duplicate item row"),
            ("item_features", 0, "id is 0 (missing)"),
            ("item_features", None, "null"),
            ("item_features", None, "null"),
            ("embeddings", 9, "duplicate item row"),
            ("embeddings", 0, "id is 0 (missing)"),
            ("embeddings", -4, "zero vector"),
            ("embeddings", None, "null"),
            ("embeddings", 10, "embedding length is not 128"),
            ("embeddings", 11, "null"),
            ("embeddings", 12, "null"),
        ],
        key=str,
    )


def test_random_tables_in_any_order(tmp_path, monkeypatch):
    """With a dozen ranges of ids, to the byte what one write makes of them."""
    monkeypatch.setattr(steps, "_PARTITION_BYTES", 4096)
    rng = np.random.default_rng(4)
    ids = rng.permutation(rng.integers(LOWEST, HIGHEST, 300))
    features = [(int(i), *rng.integers(-9, 9, 3).tolist()) for i in ids[:200]]
    vectors = [
        (int(i), rng.integers(-127, 128, 128).tolist()) for i in ids[100:]
    ]
    tables = write(tmp_path / "raw", features, vectors, rows_per_group=37)
    table, _ = build(tables, tmp_path)
    assert table.item_ids.tolist() == sorted(ids.tolist())
    by_id, codes = {row[0]: row[1:] for row in features}, dict(vectors)
    for place, item in enumerate(table.item_ids.tolist(), 1):
        wanted = by_id.get(item, (0, 0, 0))
        found = tuple(
            int(table.features[name][place])
            for name in ("category", "city", "province")
        )
        assert found == wanted
        assert table.codes[place].tolist() == codes.get(item, [0] * 128)
    columns = np.array([by_id.get(int(item), (0, 0, 0)) for item in ids])
    at_once = ItemTable.write(
        tmp_path / "at_once",
        ids,
        np.array([codes.get(int(item), [0] * 128) for item in ids], np.int8),
        dict(zip(("category", "city", "province"), columns.T, strict=True)),
        source="raw",
        schema=table.manifest["schema"],
    )
    assert table.manifest == at_once.manifest


def test_no_usable_row_is_an_error_that_names_the_table(tmp_path):
    tables = write(tmp_path / "raw", [(5, 1, 1, 1)], [(0, vector(1))] * 3)
    with pytest.raises(DataError, match="scl_embedding_int8_p90: all 3 rows"):
        build(tables, tmp_path)
    assert not (tmp_path / "table").exists()


def test_missing_column_is_named(tmp_path):
    write(tmp_path / "raw", [(5, 1, 1, 1)], [(5, vector(1))])
    path = tmp_path / "raw" / "item_features.parquet"
    pq.write_table(pq.read_table(path).drop(["213"]), path)
    with pytest.raises(DataError, match="item_features: column 213"):
        build(raw_tables.RawTables.open(tmp_path / "raw"), tmp_path)


_PEAK = """
import pathlib, sys, threading
from tfx_pipeline.components import item_table_gen
from tfx_pipeline.transforms import item_table_join, steps
from muse_tools.datasets import raw_tables

# Small ones, so that the tables have many of them.
steps._PARTITION_BYTES, item_table_join._BATCH_ROWS = 2 << 20, 2048

def resident():
    # Without the pages of mapped files, which can be dropped.
    with open("/proc/self/status") as file:
        (line,) = (line for line in file if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024

def watch():
    while not done.wait(0.005):
        seen.append(resident())

for root in map(pathlib.Path, sys.argv[1:]):
    seen, done = [resident()], threading.Event()
    thread = threading.Thread(target=watch)
    thread.start()
    table = item_table_gen.build_item_table(
        raw_tables.RawTables.open(root / "raw"),
        root / "table",
        root / "rejected",
    )
    done.set()
    thread.join()
    print(max(seen), table.codes.nbytes)
    del table
"""


def write_large(folder: pathlib.Path, items: int) -> None:
    """Two tables of random items, each in an order of its own."""
    rng = np.random.default_rng(0)
    ids = rng.permutation(np.arange(1, items + 1))
    folder.mkdir(parents=True)
    columns = [rng.integers(1, 9, items) for _ in range(3)]
    pq.write_table(
        pa.table([ids, *columns], names=["205", "206", "213", "214"]),
        folder / "item_features.parquet",
    )
    codes = rng.integers(-127, 128, items * 128, dtype=np.int8)
    ends = np.arange(0, len(codes) + 1, 128, dtype=np.int32)
    pq.write_table(
        pa.table(
            [rng.permutation(ids), pa.ListArray.from_arrays(ends, codes)],
            names=["205", "205_c"],
        ),
        folder / "scl_embedding_int8_p90.parquet",
        use_dictionary=False,
        row_group_size=20_000,
    )


@pytest.mark.once
@pytest.mark.skipif(
    not pathlib.Path("/proc/self/status").exists(), reason="memory of Linux"
)
def test_memory_does_not_grow_with_the_table(tmp_path):
    """Of a large table, against the peak of a table of a few ranges.

    So what TensorFlow, Beam and a range take does not count.
    """
    sizes = {"small": 50_000, "large": 250_000}
    for name, items in sizes.items():
        write_large(tmp_path / name / "raw", items)
    said = subprocess.run(
        [sys.executable, "-c", _PEAK, *(str(tmp_path / n) for n in sizes)],
        env={**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    small, small_codes, large, codes = map(int, said.split()[-4:])
    assert large - small < 0.7 * (codes - small_codes)


def test_a_failure_while_the_table_is_joined_leaves_nothing(
    tmp_path, monkeypatch
):
    tables = write(tmp_path / "raw", [(5, 1, 1, 1)], [(5, vector(1))])

    write_manifest = table_files.write_manifest

    def fail(folder, files, source, **content):
        if source == "raw":
            raise OSError("No space left on device")
        write_manifest(folder, files, source=source, **content)

    monkeypatch.setattr(table_files, "write_manifest", fail)
    with pytest.raises(OSError, match="No space left"):
        build(tables, tmp_path)
    assert not (tmp_path / "table").exists()
    assert not [*tmp_path.glob(".*")]


def test_features_of_every_kind(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    declaration = """
name: shop
item: {column: sku, type: string}
features:
  item:
    brand: {type: string}
    tags: {type: string, many: 2}
    price: {type: float}
    look: {type: vector, dim: 2}
vectors: vector
"""
    (raw / "schema.yaml").write_text(declaration)
    items = {
        "sku": ["a", "b", "c"],
        "brand": ["x", None, "y"],
        "tags": [["new"], ["red", "big", "cut"], None],
        "price": [2.5, None, -1.0],
        "look": [[0.5, 1.0], [2.0, 3.0], None],
    }
    pq.write_table(pa.table(items), raw / "item_features.parquet")
    pq.write_table(
        pa.table({"sku": ["c", "d"], "vector": [vector(1), vector(2)]}),
        raw / "scl_embedding_int8_p90.parquet",
    )
    tables = raw_tables.RawTables.open(raw)
    table, _ = build(tables, tmp_path)
    assert table.manifest["schema"] == {
        "name": "shop",
        "version": 1,
        "digest": tables.declared.digest(),
    }
    nan = float("nan")
    wanted = {
        "a": ("x", ["new", ""], 2.5, [0.5, 1.0]),
        "b": ("", ["red", "big"], nan, [2.0, 3.0]),
        "c": ("y", ["", ""], -1.0, [nan, nan]),
        "d": ("", ["", ""], nan, [nan, nan]),
        "unknown": ("", ["", ""], nan, [nan, nan]),
    }
    assert [*table.features] == ["brand", "tags", "price", "look"]
    for sku, (brand, tags, price, look) in wanted.items():
        row = int(table.rows(stable_id("item_id", sku)))
        assert bool(row) == (sku != "unknown")
        found = {name: one[row] for name, one in table.features.items()}
        assert found["brand"] == stable_id("item_brand", brand)
        ids = [stable_id("item_tags", tag) for tag in tags]
        assert found["tags"].tolist() == ids
        np.testing.assert_array_equal(found["price"], np.float32(price))
        np.testing.assert_array_equal(found["look"], np.float32(look))
