import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from muse_tools.datasets import (
    fingerprints,
    joined,
    raw_tables,
    validation,
)
from muse_tools.datasets.errors import DataError
from tests.muse_tools.datasets.conftest import NAMES, SCHEMAS, SPLITS

JOINED = pa.unify_schemas(
    [
        SCHEMAS[name]
        for name in ("train_samples", "train_user_features", "item_features")
    ]
)
"""The 13 published columns of a joined shard."""


def join_rows(tables, split):
    """Joins raw tables into the 13 columns, row by row."""
    users = {
        r["129_1"]: r for r in tables[f"{split}_user_features"].to_pylist()
    }
    items = {r["205"]: r for r in tables["item_features"].to_pylist()}
    return [
        {**users[r["129_1"]], **items[r["205"]], **r}
        for r in tables[f"{split}_samples"].to_pylist()
    ]


def write_shards(root, split, rows, size=7):
    (root / split).mkdir(parents=True)
    for i, begin in enumerate(range(0, len(rows), size)):
        part = rows[begin : begin + size]
        table = pa.Table.from_pylist(part, schema=JOINED)
        path = root / split / f"{split}-shard-{i:06}.parquet"
        pq.write_table(table, path)


@pytest.fixture
def published(tmp_path, tables):
    """The same data as raw tables, as joined shards and feature map."""
    root = tmp_path / "published"
    for split in SPLITS:
        write_shards(root, split, join_rows(tables, split))
    maps = root / "feature_map"
    maps.mkdir()
    vectors = tables["scl_embedding_int8_p90"]
    keys = np.sort(vectors["205"].to_numpy())
    values = {
        r["205"]: np.array(r["205_c"], np.int8) for r in vectors.to_pylist()
    }
    # As published: sorted block by block only, with one key twice.
    keys = np.r_[keys[4:], keys[:4], keys[5]]
    codes = np.stack([values[k] for k in keys.tolist()])
    codes[-1] = 99  # the second row of the key differs
    np.save(maps / joined.EMBEDDING_KEYS, keys)
    np.save(maps / joined.EMBEDDING_VALUES, codes)
    np.save(maps / "205_sorted_map.npy", np.sort(keys[:-1]))
    np.save(maps / "150_2_180_sorted_map_p90.npy", np.array([3, 1, 2, 2]))
    return root


def rows_of(path, key):
    rows = pq.read_table(path).to_pylist()
    return {r[key]: r for r in rows}, len(rows)


def test_the_schema_has_the_thirteen_published_columns():
    assert str(raw_tables.in_files(joined.JOINED_SCHEMA)) == str(JOINED)
    assert joined.JOINED_SCHEMA.names == [NAMES[c] for c in JOINED.names]


def test_import_gives_back_the_raw_tables(published, tables, tmp_path):
    out = tmp_path / "out"
    made, reused = joined.import_joined(published, out)
    assert not reused
    found = raw_tables.RawTables.open(out)
    found.check()
    for split in SPLITS:
        samples = tables[f"{split}_samples"]
        assert pq.read_table(out / "raw" / f"{split}_samples.parquet").equals(
            samples
        )
        users, count = rows_of(
            out / "raw" / f"{split}_user_features.parquet", "129_1"
        )
        shown = set(samples["129_1"].to_pylist())
        assert count == len(users) == len(shown)
        for row in tables[f"{split}_user_features"].to_pylist():
            if row["129_1"] in shown:
                assert users[row["129_1"]] == row
        assert made["counts"][split] == {
            "read": samples.num_rows,
            "accepted": samples.num_rows,
            "rejected": {},
            "users": len(shown),
            "other_versions_of_users": 0,
            "padding_removed": 0,
        }
    items, count = rows_of(out / "raw" / "item_features.parquet", "205")
    shown = {
        i for s in SPLITS for i in tables[f"{s}_samples"]["205"].to_pylist()
    }
    assert set(items) == shown and count == len(shown)
    for row in tables["item_features"].to_pylist():
        if row["205"] in shown:
            assert items[row["205"]] == row
    vectors, count = rows_of(
        out / "raw" / "scl_embedding_int8_p90.parquet", "205"
    )
    expected = tables["scl_embedding_int8_p90"].to_pylist()
    assert vectors == {r["205"]: r for r in expected}
    assert count == len(expected)
    assert made["counts"]["embeddings"] == {
        "read": len(expected) + 1,
        "accepted": len(expected),
        "rejected": {validation.DUPLICATE_ITEM: 1},
    }
    assert joined.import_joined(published, out)[1]


def test_broken_rows_padding_and_differing_users_are_counted(
    published, tables, tmp_path
):
    rows = join_rows(tables, "train")
    for i, change in enumerate(
        [
            {"label_0": [1, 1]},
            {"label_0": None},
            {"151_2_180": [1] * 50},
            {"205": None},
            {"205": 0},
        ]
    ):
        rows[3 * i + 1] = {**rows[3 * i + 1], **change}
    # Padding in front, inside and behind, of one user's first row; its other
    # rows do not have it.
    items, categories = rows[0]["150_2_180"], rows[0]["151_2_180"]
    rows[0] = {
        **rows[0],
        "150_2_180": [0, 0, *items, 0],
        "151_2_180": [0, 7, *categories, 0],
    }
    for path in (published / "train").iterdir():
        path.unlink()
    (published / "train").rmdir()
    write_shards(published, "train", rows)
    out = tmp_path / "out"
    counts = joined.import_joined(published, out)[0]["counts"]["train"]
    assert counts["rejected"] == {
        validation.LABEL_NOT_ONE_HOT: 1,
        validation.NULL: 2,
        validation.UNEQUAL_LISTS: 1,
        validation.MISSING_ID: 1,
    }
    assert counts["read"] == len(rows)
    assert counts["read"] == counts["accepted"] + 5
    assert counts["padding_removed"] == 3
    assert counts["other_versions_of_users"] == 1
    users, _ = rows_of(out / "raw" / "train_user_features.parquet", "129_1")
    assert users[rows[0]["129_1"]]["150_2_180"] == items
    assert users[rows[0]["129_1"]]["151_2_180"] == categories
    rejected = pq.read_table(out / "rejected" / "train_shards.parquet")
    assert sorted(rejected["reason"].to_pylist()) == sorted(
        why for why, n in counts["rejected"].items() for _ in range(n)
    )


def test_vectors_stream_in_batches_and_keep_first_good_rows(
    published, tables, tmp_path, monkeypatch
):
    monkeypatch.setattr(joined, "_VECTORS_PER_BATCH", 4)
    maps = published / "feature_map"
    assert [len(b) for b in joined.iter_vectors(maps)] == [4, 4, 2]
    keys = np.load(maps / joined.EMBEDDING_KEYS)
    codes = np.load(maps / joined.EMBEDDING_VALUES)
    # No vector, no item, and one that has its vector in the second row.
    again = int(np.flatnonzero(keys[:-1] == keys[-1])[0])
    zero, no_item = [n for n in range(9) if n != again][:2]
    codes[[again, zero]] = 0
    keys[no_item] = 0
    np.save(maps / joined.EMBEDDING_KEYS, keys)
    np.save(maps / joined.EMBEDDING_VALUES, codes)
    out = tmp_path / "out"
    made = joined.import_joined(published, out)[0]
    assert made["counts"]["embeddings"] == {
        "read": 10,
        "accepted": 7,
        "rejected": {validation.MISSING_ID: 1, validation.ZERO_VECTOR: 2},
    }
    name = "scl_embedding_int8_p90.parquet"
    vectors, count = rows_of(out / "raw" / name, "205")
    kept = [n for n in range(10) if n not in (again, zero, no_item)]
    assert count == len(kept)
    assert {k: r["205_c"] for k, r in vectors.items()} == {
        int(keys[n]): codes[n].tolist() for n in kept
    }
    rejected = pq.read_table(out / "rejected" / name).to_pylist()
    assert sorted((r["205"], r["reason"]) for r in rejected) == sorted(
        (int(keys[n]), why)
        for n, why in (
            (again, validation.ZERO_VECTOR),
            (zero, validation.ZERO_VECTOR),
            (no_item, validation.MISSING_ID),
        )
    )


def other_label(root):
    """Other content in as many bytes, written at the same time."""
    path = root / "train" / "train-shard-000000.parquet"
    table = pq.read_table(path)
    labels = [label[::-1] for label in table["label_0"].to_pylist()]
    field = table.schema.field("label_0")
    column = pa.array(labels, field.type)
    pq.write_table(table.set_column(0, field, column), path)
    return path


def other_vector(root):
    path = root / "feature_map" / joined.EMBEDDING_VALUES
    codes = np.load(path)
    codes[[0, 1]] = codes[[1, 0]]
    np.save(path, codes)
    return path


@pytest.mark.parametrize("change", [other_label, other_vector])
def test_other_content_is_imported_again(
    published, tmp_path, monkeypatch, change
):
    monkeypatch.setattr(fingerprints, "_FRESH_NS", 0)
    out = tmp_path / "out"
    assert not joined.import_joined(published, out)[1]
    assert joined.import_joined(published, out)[1]
    before = {path: path.stat() for path in published.rglob("*.*")}
    path = change(published)
    os.utime(path, ns=(before[path].st_atime_ns, before[path].st_mtime_ns))
    assert path.stat().st_size == before[path].st_size
    assert not joined.import_joined(published, out)[1]
    assert joined.import_joined(published, out)[1]


def test_shards_of_every_spelling_are_read(published, tmp_path):
    first = joined.import_joined(published, tmp_path / "first")[0]
    shards = sorted((published / "train").iterdir())
    shards[0].rename(shards[0].with_suffix(".parq"))
    shards[1].rename(shards[1].with_suffix(".PARQUET"))
    again = joined.import_joined(published, tmp_path / "again")[0]
    assert again["counts"] == first["counts"]
    (published / "train" / "train-shard-9.csv").write_text("a,b")
    with pytest.raises(DataError, match="train-shard-9.csv"):
        joined.import_joined(published, tmp_path / "third")


def spoil_keys(maps):
    np.save(maps / joined.EMBEDDING_KEYS, np.zeros(10, np.int32))


def spoil_values(maps):
    np.save(maps / joined.EMBEDDING_VALUES, np.zeros((10, 64), np.int8))


def cut_values(maps):
    path = maps / joined.EMBEDDING_VALUES
    path.write_bytes(path.read_bytes()[:-100])


def remove_keys(maps):
    (maps / joined.EMBEDDING_KEYS).unlink()


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (spoil_keys, "WRONG_ARRAY"),
        (spoil_values, "WRONG_ARRAY"),
        (cut_values, "UNREADABLE_FILE"),
        (remove_keys, "MISSING_FILE"),
    ],
)
def test_unusable_feature_maps_are_one_line(published, tmp_path, spoil, code):
    spoil(published / "feature_map")
    with pytest.raises(DataError) as error:
        joined.import_joined(published, tmp_path / "out")
    assert error.value.code == code
    assert "scl_emb_int8_p90" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_shard_without_a_column_is_named(published, tmp_path):
    path = published / "test" / "test-shard-000001.parquet"
    pq.write_table(pq.read_table(path).drop(["213"]), path)
    with pytest.raises(DataError) as error:
        joined.import_joined(published, tmp_path / "out")
    assert error.value.code == "MISSING_COLUMN"
    assert "test-shard-000001.parquet" in str(error.value)
    assert "213 (item_city)" in str(error.value)


def test_no_shards(tmp_path):
    with pytest.raises(DataError) as error:
        joined.find_shards(tmp_path)
    assert error.value.code == "NO_TABLES"
