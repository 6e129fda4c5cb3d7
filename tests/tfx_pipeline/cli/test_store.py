"""What `muse store load` says of a table that it can load nothing of."""

import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
from typer.testing import CliRunner

from tfx_pipeline.cli.commands import app
from tfx_pipeline.data import raw_tables, synth


def test_a_load_of_nobody_is_no_success(tmp_path: pathlib.Path) -> None:
    synth.generate(tmp_path, synth.Options(users=12, items=100, history=10))
    (path,) = raw_tables.RawTables.open(tmp_path)["test_user_features"].paths
    table = pq.read_table(path)
    nobody = pa.array([None] * table.num_rows, pa.int64())
    place = table.column_names.index(raw_tables.USER_ID)
    field = table.schema.field(raw_tables.USER_ID)
    pq.write_table(table.set_column(place, field, nobody), path)
    command = ["store", "load", "--data", str(tmp_path)]
    command += ["--store", f"lmdb:{tmp_path}/store"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1
    assert "NO_USABLE_ROWS" in done.output


def test_a_setting_that_is_wrong_is_told_in_one_line(
    tmp_path: pathlib.Path,
) -> None:
    command = ["service", "--store", f"lmdb:{tmp_path}/s", "--target", "foo"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1
    assert "HOST:PORT" in done.output
    assert "Received: 'foo'" in done.output
    assert "pydantic" not in done.output
    assert done.output.count("\n") == 1
