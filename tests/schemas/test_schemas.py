"""The checked-in schemas say what the code does."""

import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

import schemas
from muse_tools.datasets import search_tables
from tfx_pipeline import features

FOLDER = pathlib.Path(schemas.__file__).parent


def read(name):
    text = (FOLDER / f"{name}.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, schema_pb2.Schema())


@pytest.mark.parametrize("table", search_tables.TABLES)
def test_search_schemas_match_the_tables(table, tmp_path):
    """The stand-in modality is one that the code takes for one."""
    schema = read(f"raw_{table}")
    arrow = {
        schema_pb2.INT: pa.int64(),
        schema_pb2.FLOAT: pa.list_(pa.float32()),
        schema_pb2.BYTES: pa.string(),
    }
    types = {f.name: arrow[f.type] for f in schema.feature}
    if table == search_tables.SEARCH_EVENTS:
        types["clicked_item_ids"] = pa.list_(pa.int64())
    values = {pa.int64(): 1, pa.string(): "text"}
    row = {name: values.get(kind, [1]) for name, kind in types.items()}
    pq.write_table(
        pa.Table.from_pylist([row], pa.schema(list(types.items()))),
        tmp_path / f"{table}.parquet",
    )
    found = search_tables.open_table(tmp_path, table)
    assert set(found.modalities) == {"image", "text"}
    assert set(found.rows.schema.names) == set(types)
    dictionary = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name in types:
        name = name.replace("image", "<modality>")
        assert f"`{name}`" in dictionary


def test_search_examples_are_those_that_are_written():
    schema = read("search_examples")
    assert {f.name for f in schema.feature} == {
        search_tables.QUERY_ID,
        search_tables.TIME,
        search_tables.PURCHASED_ITEM_ID,
        search_tables.CLICKED_ITEM_IDS,
        f"{features.QUERY_PREFIX}image",
    }


def test_every_schema_is_listed_in_the_dictionary():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    for path in FOLDER.glob("*.pbtxt"):
        assert path.name in text, path.name
