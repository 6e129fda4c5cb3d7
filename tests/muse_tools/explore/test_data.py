"""The list of users."""

import pathlib

import pyarrow as pa
import pyarrow.parquet as pq

from muse_tools.datasets import raw_tables, synth
from muse_tools.explore.data import ExplorerData


def test_the_first_row_of_a_user_is_listed_once_and_nulls_are_not(
    tmp_path: pathlib.Path,
) -> None:
    synth.generate(tmp_path, synth.Options(users=12, items=100, history=10))
    (path,) = raw_tables.RawTables.open(tmp_path)["test_user_features"].paths
    table = pq.read_table(path)
    ids = table["129_1"].to_pylist()
    again = table.slice(0, 1).set_column(
        table.column_names.index("150_2_180"),
        table.schema.field("150_2_180"),
        pa.array([[1] * 99], table.schema.field("150_2_180").type),
    )
    nameless = table.slice(0, 1).set_column(
        table.column_names.index("129_1"),
        table.schema.field("129_1"),
        pa.array([None], pa.int64()),
    )
    pq.write_table(pa.concat_tables([table, again, nameless]), path)
    listed = {
        user.user_id: user.history_length
        for user in ExplorerData(tmp_path).listed
    }
    lengths = table["150_2_180"].to_pylist()
    assert listed == dict(zip(ids, map(len, lengths), strict=True))
