"""What the join reads of a table's files, against the reader's rows."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from muse_tools.datasets import raw_tables
from muse_tools.datasets.errors import DataError
from tfx_pipeline.transforms import steps


def read(folder, name):
    table = raw_tables.RawTables.open(folder)[name]
    groups = steps.row_groups(name, table.schema, {"": table.paths})
    found, positions = [], []
    for group in groups:
        for position, batch in steps.read_row_group(group, table.schema):
            positions += range(position, position + batch.num_rows)
            found += batch.to_pylist()
    direct = [row for b in table.iter_batches() for row in b.to_pylist()]
    assert found == direct and positions == list(range(len(found)))
    return found


def test_folders_types_and_partitions_are_those_of_the_reader(tmp_path):
    folder = tmp_path / "a[b]*?" / "item_features"
    parts = {
        "213=5/part-0": {"206": pa.array([1, None, 3], pa.uint64())},
        "213=-6/[1].parq": {"206": pa.array([4.0, float("nan"), 6.0])},
        "213=7/x.PARQUET": {"206": pa.array([2**60 + 1, None, 9])},
    }
    for i, (name, columns) in enumerate(parts.items()):
        (folder / name).parent.mkdir(parents=True)
        ids = pa.array(range(3 * i + 1, 3 * i + 4), pa.int32())
        rows = pa.table({"205": ids, **columns, "214": ids, "unused": ids})
        pq.write_table(rows, folder / name, row_group_size=2)
    found = read(tmp_path / "a[b]*?", "item_features")
    by_id = {
        row["item_id"]: (row["item_category"], row["item_city"])
        for row in found
    }
    assert by_id == {
        1: (1, 5),
        2: (None, 5),
        3: (3, 5),
        4: (4, -6),
        5: (None, -6),
        6: (6, -6),
        7: (2**60 + 1, 7),
        8: (None, 7),
        9: (9, 7),
    }


def test_a_value_that_does_not_fit_is_named(tmp_path):
    rows = pa.table({"205": [1.0, 2.5], "206": [1, 1], "213": [1, 1]})
    rows = rows.append_column("214", pa.array([1, 1]))
    pq.write_table(rows, tmp_path / "item_features.parquet")
    with pytest.raises(DataError, match="item_features: column 205.*2.5"):
        read(tmp_path, "item_features")
