import pyarrow as pa
import pyarrow.parquet as pq

from muse_tools.datasets import item_names, raw_tables
from schemas import hashing
from schemas.hashing import stable_id
from schemas.ranking_schema import RankingSchema


def declared(**item):
    return RankingSchema.model_validate(
        {
            "name": "names",
            "item": item,
            "features": {
                "item": {
                    "brand": {"type": "string"},
                    "size": None,
                    "tags": {"type": "string", "many": 2, "separator": "|"},
                }
            },
        }
    )


def write(folder, sku):
    pq.write_table(
        pa.table(
            {
                "item_id": sku,
                "brand": ["a", "b", None, "a"],
                "size": [1, 2, 3, 4],
                "tags": ["x|y", "y|z", "", "z"],
            }
        ),
        folder / "item_features.parquet",
        row_group_size=2,
    )


def test_each_name_once_with_its_id(tmp_path):
    write(tmp_path, ["tea", "mug", "tea", None])
    pq.write_table(
        pa.table({"item_id": ["pot", "mug"], "item_vector": [[1.0]] * 2}),
        tmp_path / "scl_embedding_int8_p90.parquet",
    )
    tables = raw_tables.RawTables.open(
        tmp_path, declared=declared(type="string")
    )
    found = item_names.write_item_names(tables, tmp_path / "out")
    assert found == {"item_id": 0, "item_brand": 0, "item_tags": 0}
    rows = pq.read_table(tmp_path / "out" / "item_names.parquet")
    assert rows.schema == item_names.SCHEMA
    names = ["tea", "mug", "pot"]
    assert rows["name"].to_pylist() == names
    ids = [stable_id("item_id", name) for name in names]
    assert rows["item_id"].to_pylist() == ids
    # As they are read with everything else.
    (batch,) = tables["item_features"].iter_batches(["item_id"])
    assert batch["item_id"].to_pylist() == [ids[0], ids[1], ids[0], None]


def test_texts_with_one_id_are_counted(tmp_path, monkeypatch):
    real = hashing.stable_id

    def short(field, value):
        """Of tea and mug, and of x and y, the ids are the same."""
        same = {"mug": "tea", "y": "x"}
        other = "\x1fother" in field
        return real(field, value if other else same.get(value, value))

    monkeypatch.setattr(hashing, "stable_id", short)
    write(tmp_path, ["tea", "mug", "tea", "pot"])
    tables = raw_tables.RawTables.open(
        tmp_path, declared=declared(type="string")
    )
    found = item_names.write_item_names(tables, tmp_path)
    assert found == {"item_id": 1, "item_brand": 0, "item_tags": 1}
    rows = pq.read_table(tmp_path / "item_names.parquet")
    assert rows["name"].to_pylist() == ["tea", "pot"]


def test_numbers_have_no_names(tmp_path):
    write(tmp_path, [5, 6, 7, 8])
    tables = raw_tables.RawTables.open(tmp_path, declared=declared())
    found = item_names.write_item_names(tables, tmp_path / "out")
    assert found == {"item_brand": 0, "item_tags": 0}
    assert not (tmp_path / "out").exists()
