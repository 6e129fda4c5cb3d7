import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from muse_tools.datasets import casting, raw_tables, table_writer
from muse_tools.datasets.errors import DataError
from schemas.ranking_schema import preset
from tests.muse_tools.datasets.conftest import NAMES, SCHEMAS, named

TABLES = list(SCHEMAS)


def one_line(error: DataError) -> bool:
    return "\n" not in str(error) and error.hint in str(error)


def read(table: raw_tables.RawTable, **kwargs) -> pa.Table:
    return pa.Table.from_batches(table.iter_batches(**kwargs))


def test_real_demo_tables_have_exactly_our_schemas(demo_tables):
    found = raw_tables.RawTables.open(demo_tables)
    found.check()
    assert list(raw_tables.TABLES) == TABLES
    for name in TABLES:
        written = pq.read_schema(demo_tables / f"{name}.parquet")
        # Also the names of list children, which == does not compare.
        assert str(written.remove_metadata()) == str(SCHEMAS[name])
        assert found[name].num_rows() == 10
        rows = read(found[name])
        real = named(pq.read_table(demo_tables / f"{name}.parquet"))
        assert rows.equals(real.cast(rows.schema))


def test_our_files_have_the_parquet_types_of_the_real_ones(
    demo_tables, raw_dir
):
    for name in TABLES:
        ours = pq.ParquetFile(raw_dir / f"{name}.parquet").schema
        real = pq.ParquetFile(demo_tables / f"{name}.parquet").schema
        assert str(ours).split("\n")[1:] == str(real).split("\n")[1:]


def test_the_preset_declares_the_published_tables():
    declared = raw_tables.schemas(preset("taobao_mm"))
    assert list(declared) == list(raw_tables.TABLES) == TABLES
    for name, schema in declared.items():
        # Also the names of list children, which == does not compare.
        assert str(raw_tables.in_files(schema)) == str(SCHEMAS[name])
        assert schema.names == [NAMES[one] for one in SCHEMAS[name].names]
        assert raw_tables.plain(schema).names == schema.names


@pytest.mark.parametrize("form", ["single", "shards", "folder"])
@pytest.mark.parametrize("subdirectory", ["", "raw"])
def test_tables_are_found_in_every_form(tmp_path, tables, form, subdirectory):
    root = tmp_path / subdirectory
    root.mkdir(exist_ok=True)
    for name, table in tables.items():
        parts = [table.slice(0, 2), table.slice(2)]
        if form == "single":
            table_writer.write_table(root / f"{name}.parquet", table)
        for i, part in enumerate(parts):
            if form == "shards":
                table_writer.write_table(root / f"{name}-{i:05}.parquet", part)
            if form == "folder":
                table_writer.write_table(root / name / f"{i}.parquet", part)
    found = raw_tables.RawTables.open(tmp_path)
    found.check()
    for name, table in tables.items():
        assert read(found[name]).equals(named(table))


def test_two_forms_of_one_table_are_refused(raw_dir, tables):
    table_writer.write_table(
        raw_dir / "train_samples-0.parquet", tables["train_samples"]
    )
    with pytest.raises(DataError) as error:
        raw_tables.RawTables.open(raw_dir)
    assert error.value.code == "AMBIGUOUS_TABLE"
    assert "train_samples" in str(error.value) and one_line(error.value)


@pytest.mark.parametrize("name", TABLES)
def test_every_missing_column_is_named(raw_dir, tables, name):
    for column in tables[name].schema.names:
        table_writer.write_table(
            raw_dir / f"{name}.parquet", tables[name].drop([column])
        )
        with pytest.raises(DataError) as error:
            raw_tables.RawTables.open(raw_dir).check()
        assert error.value.code == "MISSING_COLUMN"
        assert f"table {name}: column {column} (" in error.value.message
        assert f"({NAMES[column]})" in error.value.message
        assert one_line(error.value)


WRONG = {
    pa.int64(): [pa.string(), pa.bool_(), pa.timestamp("us"), pa.binary(16)],
    "list": [pa.int64(), pa.list_(pa.string()), pa.list_(pa.bool_())],
}


@pytest.mark.parametrize("name", TABLES)
def test_every_wrong_type_is_named(raw_dir, tables, name):
    for i, field in enumerate(SCHEMAS[name]):
        wrong = WRONG.get(field.type, WRONG["list"])
        for kind in wrong:
            empty = pa.nulls(tables[name].num_rows, kind)
            table_writer.write_table(
                raw_dir / f"{name}.parquet",
                tables[name].set_column(i, field.name, empty),
            )
            with pytest.raises(DataError) as error:
                list(raw_tables.RawTables.open(raw_dir)[name].iter_batches())
            assert error.value.code == "WRONG_TYPE"
            for part in (
                f"table {name}: column {field.name} (",
                f"Expected: {casting.describe(field.type)}",
                f"Received: {casting.describe(kind)}",
            ):
                assert part in error.value.message


def test_equal_lists_of_other_writers_are_accepted(tmp_path, tables):
    # polars and spark: 64-bit offsets, a child called item, extra columns.
    users = tables["train_user_features"]
    other = users
    for i in (6, 7):
        kind = pa.large_list(pa.field("item", pa.int64()))
        values = pa.array(users.column(i).to_pylist(), kind)
        other = other.set_column(i, users.schema.names[i], values)
    other = other.select(other.schema.names[::-1])
    other = other.append_column("extra", pa.array(["x"] * users.num_rows))
    path = tmp_path / "train_user_features.parquet"
    pq.write_table(other, path, use_compliant_nested_type=False)
    table = raw_tables.RawTables.open(tmp_path)["train_user_features"]
    table.check()
    found = read(table)
    assert found.equals(named(users))
    assert str(raw_tables.plain(found.schema)) == str(named(users).schema)


def test_a_bad_shard_is_named(tmp_path, tables):
    samples = tables["train_samples"]
    table_writer.write_table(tmp_path / "train_samples-0.parquet", samples)
    table_writer.write_table(
        tmp_path / "train_samples-1.parquet", samples.drop(["205"])
    )
    with pytest.raises(DataError, match=r"train_samples-1\.parquet"):
        raw_tables.RawTables.open(tmp_path)["train_samples"].check()


@pytest.mark.parametrize("keep", [0, 3, 500, -1])
def test_truncated_file_is_one_line(raw_dir, keep):
    path = raw_dir / "train_user_features.parquet"
    data = path.read_bytes()
    path.write_bytes(data[:keep])
    table = raw_tables.RawTables.open(raw_dir)["train_user_features"]
    for action in (table.check, table.num_rows, lambda: read(table)):
        with pytest.raises(DataError) as error:
            action()
        assert error.value.code == "UNREADABLE_FILE"
        assert str(path) in str(error.value) and one_line(error.value)


def test_damaged_pages_are_one_line(tmp_path):
    samples = pa.table(
        [
            pa.array([[1, 0]] * 5000),
            pa.array(np.random.default_rng(0).integers(0, 2**60, 5000)),
            pa.array(np.arange(5000)),
        ],
        names=["label_0", "129_1", "205"],
    ).cast(SCHEMAS["train_samples"])
    path = tmp_path / "train_samples.parquet"
    table_writer.write_table(path, samples)
    data = bytearray(path.read_bytes())
    for i in range(200, len(data) // 2):
        data[i] ^= 0x5A
    path.write_bytes(data)
    table = raw_tables.RawTables.open(tmp_path)["train_samples"]
    table.check()  # the footer is whole
    with pytest.raises(DataError) as error:
        read(table)
    assert error.value.code == "UNREADABLE_FILE" and one_line(error.value)


def test_empty_table_is_refused(raw_dir, tables):
    table_writer.write_table(
        raw_dir / "item_features.parquet", tables["item_features"].slice(0, 0)
    )
    with pytest.raises(DataError) as error:
        raw_tables.RawTables.open(raw_dir).check()
    assert error.value.code == "EMPTY_TABLE"
    assert "item_features" in str(error.value)


def test_missing_table_and_directory(raw_dir, tmp_path):
    (raw_dir / "test_samples.parquet").unlink()
    with pytest.raises(DataError, match="test_samples") as error:
        raw_tables.RawTables.open(raw_dir, require=["test_samples"])
    assert error.value.code == "MISSING_TABLE"
    with pytest.raises(DataError) as error:
        raw_tables.RawTables.open(tmp_path / "nowhere")
    assert error.value.code == "NO_DIRECTORY"
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as error:
        raw_tables.RawTables.open(tmp_path / "empty")
    assert error.value.code == "NO_TABLES"


@pytest.mark.parametrize("inside", ["", "raw/"])
@pytest.mark.parametrize(
    ("names", "part"),
    [
        ([], "Received: nothing."),
        (["a.csv", "train_samples.xls"], "Received: a.csv, train_samples.xls."),
        ([f"{n}.csv" for n in range(10)], "6.csv, 7.csv and 2 more."),
        (["train_samples/"], "Received: train_samples/."),
    ],
)
def test_what_is_there_instead_of_tables_is_said(tmp_path, inside, names, part):
    (tmp_path / inside).mkdir(exist_ok=True)
    for name in names:
        path = tmp_path / inside / name
        path.mkdir() if name.endswith("/") else path.touch()
    with pytest.raises(DataError) as error:
        raw_tables.RawTables.open(tmp_path)
    assert one_line(error.value) and part in error.value.message
    assert all(name in error.value.message for name in TABLES)
    with pytest.raises(DataError) as error:
        raw_tables.RawTables(tmp_path / inside, {}, preset("taobao_mm"))[
            "item_features"
        ]
    assert error.value.code == "MISSING_TABLE" and part in str(error.value)


def test_batches_shrink_as_histories_grow(tmp_path):
    """One row group with long histories never comes as one batch."""
    length, users = 100_000, 120
    items = np.arange(users * length) % 1000
    lists = pa.ListArray.from_arrays(
        np.arange(users + 1, dtype=np.int32) * length, items
    )
    zeros = pa.array(np.zeros(users, np.int64))
    table = pa.Table.from_arrays(
        [pa.array(np.arange(users)), *[zeros] * 5, lists, lists],
        names=SCHEMAS["train_user_features"].names,
    )
    path = tmp_path / "train_user_features.parquet"
    pq.write_table(table, path)
    found = raw_tables.RawTables.open(tmp_path)["train_user_features"]
    batches = list(found.iter_batches())
    assert max(b.num_rows for b in batches) * length * 16 <= 40 << 20
    assert sum(b.num_rows for b in batches) == users
    assert sum(b.column(6).flatten().sum().as_py() for b in batches) == int(
        items.sum()
    )
    narrow = list(found.iter_batches(["user_id"]))
    assert len(narrow) == 1


def test_columns_and_batch_size_can_be_chosen(raw_dir, tables):
    table = raw_tables.RawTables.open(raw_dir)["train_samples"]
    batches = list(table.iter_batches(["item_id", "user_id"], batch_rows=4))
    assert [b.num_rows for b in batches] == [4, 4, 4, 4, 2]
    assert pa.Table.from_batches(batches).equals(
        named(tables["train_samples"]).select(["user_id", "item_id"])
    )
    with pytest.raises(ValueError, match="Received: \\['205'\\]"):
        list(table.iter_batches(["205"]))


def test_writer_leaves_the_old_file_after_an_error(tmp_path, tables):
    path = tmp_path / "item_features.parquet"
    table = tables["item_features"]
    table_writer.write_table(path, table)
    with pytest.raises(RuntimeError, match="stop"):
        with table_writer.TableWriter(path, table.schema) as writer:
            writer.write(table.slice(0, 1))
            raise RuntimeError("stop")
    assert pq.read_table(path).equals(table)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_writer_closes_row_groups_by_size(tmp_path, tables):
    table = tables["scl_embedding_int8_p90"]
    path = tmp_path / "x.parquet"
    with table_writer.TableWriter(path, table.schema, 600) as writer:
        for i in range(table.num_rows):
            writer.write(table.slice(i, 1))
    assert writer.rows == table.num_rows
    file = pq.ParquetFile(path)
    assert 1 < file.metadata.num_row_groups < table.num_rows
    assert file.read().equals(table)


def test_errors_survive_pickling():
    error = DataError("CODE", "two\nlines", "do\nthis")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == "[CODE] two lines Fix: do this"
    assert (again.code, again.hint) == ("CODE", "do this")
