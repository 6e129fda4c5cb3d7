"""What `muse store load` says of a table that it can load nothing of."""

import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from muse_tools.cli.commands import app
from muse_tools.datasets import raw_tables, synth
from serving.stores import open_store
from tests.serving.toy_store import LAYOUT


def test_a_load_without_a_user_fails(tmp_path: pathlib.Path) -> None:
    synth.generate(tmp_path, synth.Options(users=12, items=100, history=10))
    (path,) = raw_tables.RawTables.open(tmp_path)["test_user_features"].paths
    table = pq.read_table(path)
    nulls = pa.array([None] * table.num_rows, pa.int64())
    place = table.column_names.index("129_1")
    field = table.schema.field("129_1")
    pq.write_table(table.set_column(place, field, nulls), path)
    command = ["store", "load", "--data", str(tmp_path)]
    command += ["--store", f"lmdb:{tmp_path}/store"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1
    assert "NO_USABLE_ROWS" in done.output
    assert not (tmp_path / "store").exists()


def test_a_setting_that_is_wrong_is_told_in_few_words(
    tmp_path: pathlib.Path,
) -> None:
    command = ["service", "--store", f"lmdb:{tmp_path}/s", "--target", "foo"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2
    assert "HOST:PORT" in done.output
    assert "Received: 'foo'" in done.output
    assert "pydantic" not in done.output


@pytest.mark.parametrize(
    ("command", "part"),
    [
        ("load --data nowhere", "NO_DIRECTORY"),
        ("load --data . --split train", "NO_TABLES"),
        ("append --user 1 --items 1", "no behavior store in"),
    ],
)
def test_a_failure_leaves_no_new_store(
    command: str,
    part: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    command = f"store {command} --store lmdb:store"
    done = CliRunner().invoke(app, command.split())
    assert done.exit_code == 1 and part in done.output
    assert done.output.count("\n") == 1
    assert not list(tmp_path.iterdir())
    # What was there before stays.
    open_store("lmdb:store", LAYOUT).close()
    command = command.replace("--items 1", "--items 0")
    assert CliRunner().invoke(app, command.split()).exit_code == 1
    assert (tmp_path / "store" / "data.mdb").exists()
