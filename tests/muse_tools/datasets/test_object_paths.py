"""Raw tables in an S3 server, against the same tables in a folder."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from muse_tools.cli import configuration
from muse_tools.datasets import fingerprints, object_paths, raw_tables
from muse_tools.datasets.errors import DataError
from tests import s3_server
from tfx_pipeline import config as config_lib


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    with s3_server.served(tmp_path_factory.mktemp("s3")) as system:
        yield system


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Partitioned items, sharded samples, markers that are not data."""
    folder = tmp_path_factory.mktemp("tables")
    for city in (5, 6):
        place = folder / "raw" / "item_features" / f"213={city}"
        place.mkdir(parents=True)
        ids = [10 * city, 10 * city + 1]
        rows = pa.table({"205": ids, "206": [1, 2], "214": [3, 4]})
        pq.write_table(rows, place / "part [0].parquet", row_group_size=1)
    (folder / "raw" / "item_features" / "_SUCCESS").touch()
    for shard in range(2):
        rows = pa.table({"129_1": [7], "205": [50], "label_0": [[1, 0]]})
        pq.write_table(rows, folder / "raw" / f"train_samples-{shard}.parquet")
    return folder


@pytest.fixture(scope="module")
def address(storage, folder):
    s3_server.upload(storage, folder, "shop/day")
    return "s3://shop/day"


def test_tables_are_found_and_read_as_in_a_folder(address, folder):
    far, near = map(raw_tables.RawTables.open, (address, folder))
    assert far.tables.keys() == near.tables.keys()
    items = far["item_features"], near["item_features"]
    assert [str(path).removeprefix(address) for path in items[0].paths] == [
        str(path).removeprefix(str(folder)) for path in items[1].paths
    ]
    found, wanted = (
        [row for batch in table.iter_batches() for row in batch.to_pylist()]
        for table in items
    )
    assert found == wanted and len(found) == 4
    assert {row["item_city"] for row in found} == {5, 6}
    assert items[0].num_bytes() == items[1].num_bytes()


def test_patterns_are_those_of_names(address, folder):
    pattern = "raw/item_*/213=?/*.parquet"
    found = object_paths.path_of(address).glob(pattern)
    wanted = sorted(folder.glob(pattern))
    assert [one.relative_to(address.replace("//", "/")) for one in found] == [
        one.relative_to(folder) for one in wanted
    ]


def test_fingerprints_are_those_of_the_content(storage, address, folder):
    digests = fingerprints.FileDigests()
    first = fingerprints.raw_fingerprint(address, digests)
    near = fingerprints.raw_fingerprint(str(folder), digests)
    assert first == near == fingerprints.raw_fingerprint(address, digests)
    path = "shop/day/raw/train_samples-1.parquet"
    before = storage.open_input_file(path).read()
    try:
        rows = pa.table({"129_1": [7], "205": [51], "label_0": [[1, 0]]})
        with storage.open_output_stream(path) as file:
            pq.write_table(rows, file)
        fresh = fingerprints.FileDigests()
        assert fingerprints.raw_fingerprint(address, fresh) != first
    finally:
        with storage.open_output_stream(path) as file:
            file.write(before)


def test_a_declaration_beside_the_tables_is_read(storage, address):
    text = b"name: mine\nsplits: {train: 2026-01-01"
    with storage.open_output_stream("shop/declared/schema.yaml") as file:
        file.write(text)
    with pytest.raises(ValueError, match="s3://shop/declared/schema.yaml"):
        raw_tables.RawTables.open("s3://shop/declared")


@pytest.mark.parametrize(
    "place, message",
    [
        ("s3://shop/nothing", "s3://shop/nothing is not a directory"),
        ("s3://no-such-bucket/x", "s3://no-such-bucket/x is not a directory"),
        ("abc://shop/day", r"\[STORAGE\] abc://shop/day.*Unrecognized"),
    ],
)
def test_what_is_not_there_is_named(address, place, message):
    with pytest.raises(DataError, match=message) as info:
        raw_tables.RawTables.open(place)
    assert "\n" not in str(info.value)


def test_a_server_that_is_not_there_is_named(address, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(DataError, match=r"\[STORAGE\] s3://shop/day cannot"):
        raw_tables.RawTables.open(address)


def test_a_damaged_object_is_named(storage, address):
    with storage.open_output_stream("shop/bad/item_features.parquet") as file:
        file.write(b"text")
    with pytest.raises(DataError, match="s3://shop/bad/item_f.*b'text'"):
        raw_tables.RawTables.open("s3://shop/bad")["item_features"].check()


def test_text_in_storage_is_refused(storage, address):
    with storage.open_output_stream("shop/text/item_features.csv") as file:
        file.write(b"205\n1\n")
    with pytest.raises(DataError, match="s3://shop/text/item_features.csv"):
        raw_tables.RawTables.open("s3://shop/text")


def test_the_check_before_a_run_takes_addresses(address, tmp_path):
    def settings(place):
        return config_lib.PipelineConfig(
            output_dir=str(tmp_path), data={"raw_dir": place}
        )

    with pytest.raises(DataError, match="test_samples.*s3://shop/day"):
        configuration.check_tables(settings(address))
    with pytest.raises(ValueError, match="data.raw_dir.*s3://shop/none"):
        configuration.check_tables(settings("s3://shop/none"))
