"""Files as other writers leave them: all read, or refused by name."""

import pathlib
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from muse_tools.datasets import parquet_files, raw_tables
from muse_tools.datasets.errors import DataError

# Written by pyarrow 25 and polars 2.
FOREIGN = pathlib.Path(__file__).parent / "foreign"
IDS = [5, -7, 2**62]
PYARROW = int(pa.__version__.split(".")[0])


def table(folder, name):
    return raw_tables.RawTables.open(folder)[name]


def rows(folder, name):
    found = table(folder, name)
    found.check()
    return [row for b in found.iter_batches() for row in b.to_pylist()]


def put(tmp_path, file, name):
    shutil.copy(FOREIGN / f"{file}.parquet", tmp_path / f"{name}.parquet")
    return tmp_path


NAMES = ("item_id", "item_category", "item_city", "item_province")
ITEMS = [
    dict(zip(NAMES, row, strict=True))
    for row in zip(IDS, [1, 2, 3], [4, 5, 6], [7, 8, 9], strict=True)
]


@pytest.mark.parametrize("file", ["arrow_views_unused", "polars_int128_unused"])
def test_unused_columns_of_newer_types_do_not_matter(tmp_path, file):
    assert rows(put(tmp_path, file, "item_features"), "item_features") == ITEMS


def test_a_used_column_of_a_newer_type_is_named(tmp_path):
    put(tmp_path, "polars_int128_used", "item_features")
    with pytest.raises(DataError, match=r"206 \(item_category\)") as error:
        table(tmp_path, "item_features").check()
    assert error.value.code == "WRONG_TYPE"


@pytest.mark.parametrize(
    ("file", "version", "text"),
    [
        ("polars_float16_unused", 15, "float16"),
        ("byte_stream_split", 16, "BYTE_STREAM_SPLIT of column 205"),
    ],
)
def test_what_this_pyarrow_cannot_read(tmp_path, file, version, text):
    put(tmp_path, file, "item_features")
    if version <= PYARROW:
        assert rows(tmp_path, "item_features") == ITEMS
        return
    with pytest.raises(DataError) as error:
        rows(tmp_path, "item_features")
    assert error.value.code == "UNSUPPORTED_FILE"
    assert text in error.value.message and "item_features" in str(error.value)
    assert "damaged" not in str(error.value)


def test_views_and_arrays_are_lists(tmp_path):
    put(tmp_path, "arrow_list_views", "test_user_features")
    found = rows(tmp_path, "test_user_features")
    assert [r["user_id"] for r in found] == IDS
    assert [r["behavior_item_ids"] for r in found] == [[1, 2], [], [3]]
    assert [r["behavior_category"] for r in found] == [[4, 5], [], [6]]
    put(tmp_path, "polars_array", "scl_embedding_int8_p90")
    found = rows(tmp_path, "scl_embedding_int8_p90")
    codes = [i % 100 for i in range(384)]
    assert [r["item_vector"] for r in found] == [
        codes[i : i + 128] for i in (0, 128, 256)
    ]


def test_fixed_size_and_large_lists(tmp_path):
    for kind, values in (
        (pa.list_(pa.int8(), 2), [[1, 0], [0, 1], [0, 1]]),
        (pa.large_list(pa.int8()), [[1, 0], None, []]),
    ):
        written = pa.table(
            [pa.array(values, kind), pa.array(IDS), pa.array(IDS)],
            ["label_0", "129_1", "205"],
        )
        pq.write_table(written, tmp_path / "train_samples.parquet")
        found = rows(tmp_path, "train_samples")
        assert [r["click"] for r in found] == values


def samples(count, start=1):
    return pa.table(
        [
            pa.array([[1, 0]] * count, pa.list_(pa.int8())),
            pa.array(range(start, start + count), pa.int64()),
            pa.array(range(start, start + count), pa.int64()),
        ],
        ["label_0", "129_1", "205"],
    )


# The characters of patterns, in folders and in files.
ODD = "a[b]*?{x}"


@pytest.mark.parametrize("root", ["plain", ODD])
def test_everything_that_is_data_is_read(tmp_path, root):
    folder = tmp_path / root / "train_samples"
    parts = [
        "part-0.parquet",
        "part-1.parq",
        "part-2.PARQUET",
        "part-3",
        "part[4].snappy.parquet",
        "dt=2026-11-29/part-0.parquet",
        "dt=2026-11-30/hour=7/part-0",
        "_kind=x/part-0.parquet",
    ]
    for i, part in enumerate(parts):
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(samples(3, 1 + 10 * i), folder / part)
    for marker in (
        "_SUCCESS",
        "_metadata",
        ".part-0.parquet.crc",
        "part-3.crc",
        ".hidden/part-0.parquet",
        "_temporary/part-9.parquet",
    ):
        (folder / marker).parent.mkdir(parents=True, exist_ok=True)
        (folder / marker).write_bytes(b"no data")
    found = rows(tmp_path / root, "train_samples")
    expected = [k + 10 * i for i in range(len(parts)) for k in (1, 2, 3)]
    assert sorted(r["user_id"] for r in found) == expected


@pytest.mark.parametrize(
    "names",
    [
        ["train_samples.parq"],
        ["train_samples.PARQUET"],
        ["train_samples"],
        ["train_samples-0.parq", "train_samples-1", "train_samples-2.PARQUET"],
    ],
)
def test_files_of_other_endings(tmp_path, names):
    for i, name in enumerate(names):
        pq.write_table(samples(2, 1 + 10 * i), tmp_path / name)
    found = rows(tmp_path, "train_samples")
    assert [r["item_id"] for r in found] == [
        k + 10 * i for i in range(len(names)) for k in (1, 2)
    ]


def test_partition_folders_become_columns(tmp_path):
    """A column that only the folders hold; one that is not read."""
    for city, user in (("11", 1), ("-12", 2), ("%31%33", 3)):
        folder = tmp_path / "item_features" / f"213={city}" / "dt=2026-11-29"
        folder.mkdir(parents=True)
        part = pa.table({"205": [user], "206": [5], "214": [6]})
        pq.write_table(part, folder / "x.parquet")
    lost = tmp_path / "item_features" / "213=__HIVE_DEFAULT_PARTITION__"
    lost.mkdir()
    pq.write_table(
        pa.table({"205": [4], "206": [5], "214": [6]}), lost / "x.parquet"
    )
    found = rows(tmp_path, "item_features")
    assert {r["item_id"]: r["item_city"] for r in found} == {
        1: 11,
        2: -12,
        3: 13,
        4: None,
    }
    cities = table(tmp_path, "item_features").iter_batches(["item_city"])
    assert sum(b.num_rows for b in cities) == 4
    (tmp_path / "item_features" / "213=Rome").mkdir()
    shutil.copy(
        lost / "x.parquet", tmp_path / "item_features/213=Rome/y.parquet"
    )
    with pytest.raises(DataError, match="213.*Received: string"):
        table(tmp_path, "item_features").check()


def test_ids_of_partition_folders_keep_all_their_bits(tmp_path):
    ids = [n + d for n in (2**31, 2**53, 2**63 - 2) for d in (0, 1)]
    ids += [-(2**63), -(2**53) - 1]
    for one in ids:
        folder = tmp_path / "item_features" / f"205={one}"
        folder.mkdir(parents=True)
        part = pa.table({"206": [5], "213": [6], "214": [7]})
        pq.write_table(part, folder / "x.parquet")
    found = rows(tmp_path, "item_features")
    assert sorted(r["item_id"] for r in found) == sorted(ids)


@pytest.mark.parametrize(
    ("marker", "name"),
    [
        ("_delta_log/00000000000000000000.json", "Delta Lake"),
        ("metadata/v1.metadata.json", "Iceberg"),
        (".hoodie/hoodie.properties", "Hudi"),
    ],
)
def test_table_formats_are_refused(tmp_path, marker, name):
    folder = tmp_path / "train_samples"
    (folder / marker).parent.mkdir(parents=True)
    (folder / marker).write_text("{}")
    pq.write_table(samples(3), folder / "part-0.parquet")
    with pytest.raises(DataError, match=name) as error:
        raw_tables.RawTables.open(tmp_path)
    assert error.value.code == "TABLE_FORMAT" and str(folder) in str(error)


@pytest.mark.parametrize("name", ["notes.txt", "part-1.xls", "empty.parquet"])
def test_what_is_no_parquet_is_named(tmp_path, name):
    folder = tmp_path / "train_samples"
    folder.mkdir()
    pq.write_table(samples(3), folder / "part-0.parquet")
    text = "" if name.startswith("empty") else "129_1,205\n1,2\n"
    (folder / name).write_text(text)
    with pytest.raises(DataError, match=name) as error:
        table(tmp_path, "train_samples").check()
    assert error.value.code == "UNREADABLE_FILE"


def test_an_encrypted_file_is_not_damaged(tmp_path):
    path = tmp_path / "train_samples.parquet"
    path.write_bytes(b"PARE" + b"x" * 40 + b"PARE")
    with pytest.raises(DataError, match="is encrypted") as error:
        table(tmp_path, "train_samples").check()
    assert error.value.code == "UNSUPPORTED_FILE"


def test_find_files_finds_nothing_elsewhere(tmp_path):
    assert parquet_files.find_files(tmp_path / "nowhere", "x") == ()
    (tmp_path / "test_user_features.rejected").mkdir()
    (tmp_path / "test_user_features.json").write_text("{}")
    assert parquet_files.find_files(tmp_path, "test_user_features") == ()
