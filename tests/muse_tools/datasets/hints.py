"""Tables that are spoiled, and then mended as a hint says."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from muse_tools.datasets import inspection, raw_tables
from muse_tools.datasets.errors import DataError
from tests.muse_tools.datasets.conftest import NAMES, make_tables

ITEM_IDS = ("205", "150_2_180", "item_id", "purchased_item_id")
ITEM_IDS += ("clicked_item_ids",)


class Case:
    """Tables in memory that are broken, then mended as a hint says."""

    def __init__(self, folder):
        self.folder = folder
        self.good = make_tables()
        self.tables = dict(self.good)

    def set(self, names, column, make):
        """Replaces a column of tables by what `make` says of its values."""
        for name in names:
            old = self.tables[name]
            values = make(old[column])
            if not isinstance(values, (pa.Array, pa.ChunkedArray)):
                values = pa.array(values)
            at = old.schema.get_field_index(column)
            self.tables[name] = old.set_column(at, column, values)

    def inspect(self):
        self.folder.mkdir(exist_ok=True)
        for old in self.folder.glob("*.parquet"):
            old.unlink()
        for name, table in self.tables.items():
            pq.write_table(table, self.folder / f"{name}.parquet")
        try:
            return inspection.inspect(self.folder)
        except DataError as error:
            return {"ok": False, "problems": [vars(error)]}

    def read(self, name, column):
        batches = raw_tables.RawTables.open(self.folder)[name].iter_batches()
        return [v for b in batches for v in b[NAMES[column]].to_pylist()]


def add_searches(case):
    """Adds search tables whose items have a text and a vector each."""
    if "item_content" in case.good:
        return
    items = case.good["item_features"]["205"].to_pylist()
    n = len(items)
    case.good["item_content"] = pa.table(
        {
            "item_id": items,
            "text": [f"thing {i}" for i in range(n)],
            "image_vector": [[1.0, i] for i in range(n)],
        }
    )
    case.good["search_events"] = pa.table(
        {
            "query_id": list(range(1, n + 1)),
            "time": [86_400 * i for i in range(n)],
            "purchased_item_id": items,
            "clicked_item_ids": [[item] for item in reversed(items)],
            "query_text": [f"a thing {i}" for i in range(n)],
            "query_image_vector": [[2.0, i] for i in range(n)],
        }
    )
    for name in ("item_content", "search_events"):
        case.tables[name] = case.good[name]


def each(names, change):
    """Returns what changes each value of columns, in lists too."""

    def spoil(case):
        add_searches(case)
        for table in list(case.tables):
            for column in {*names} & {*case.tables[table].column_names}:
                case.set([table], column, changed)

    def changed(column):
        return [
            [change(v) for v in row] if isinstance(row, list) else change(row)
            for row in column.to_pylist()
        ]

    return spoil


def rewrite(*words):
    """Returns what writes the data again, as only their owner can."""

    def follow(case, hint):
        assert all(word in hint for word in words)
        case.tables = dict(case.good)

    return follow


def check(case, spoil, code, follow):
    """Spoils the tables, follows hints until they are fine, and compares."""
    spoil(case)
    found = case.inspect()
    assert not found["ok"]
    codes = {p["code"] for p in found["problems"]}
    assert codes == {code}, found["problems"]
    for _ in range(3):  # One column after the other, at most.
        follow(case, found["problems"][0]["hint"])
        found = case.inspect()
        if found["ok"]:
            break
    assert found["ok"], found["problems"]
    # Distinct things are distinct still, and no vector is lost.
    for table, column in (("item_features", "205"), ("train_samples", "129_1")):
        kept = len(set(case.read(table, column)))
        wanted = len(set(case.good[table][column].to_pylist()))
        assert kept == wanted or (
            (spoil.__name__, column) == ("numbered", "205")
        )
    if found["embeddings"]:
        assert found["embeddings"]["accepted"] == 9
        for codes in case.read("scl_embedding_int8_p90", "205_c"):
            assert np.abs(codes).max() > 10
    return found
