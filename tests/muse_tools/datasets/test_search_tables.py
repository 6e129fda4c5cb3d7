"""The search tables: which columns are what, and which rows are refused."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from muse_tools.datasets import search_tables, search_validation, validation
from muse_tools.datasets.errors import DataError
from schemas.hashing import stable_ids

FLOATS = pa.list_(pa.float32())
NAN, INF = math.nan, math.inf
EVENT = {
    "query_id": 9,
    "time": 5,
    "query_image_vector": [1.0, 2.0],
    "query_text": "milk",
    "purchased_item_id": 3,
    "clicked_item_ids": [4],
}
EVENT_TYPES = {
    "query_id": pa.int64(),
    "time": pa.int64(),
    "query_image_vector": FLOATS,
    "query_text": pa.string(),
    "purchased_item_id": pa.int64(),
    "clicked_item_ids": pa.list_(pa.int64()),
}


def write(folder, name, columns, types=None, **options):
    folder.mkdir(exist_ok=True)
    schema = pa.schema(list((types or {}).items())) if types else None
    table = pa.table(
        {
            k: pa.array(v, schema.field(k).type if schema else None)
            for k, v in columns.items()
        }
    )
    pq.write_table(table, folder / f"{name}.parquet", **options)
    return folder


def events(folder, rows):
    columns = {k: [row[k] for row in rows] for k in EVENT_TYPES}
    write(folder, "search_events", columns, EVENT_TYPES)
    return search_tables.open_table(folder, "search_events")


def content(folder, **columns):
    types = {
        name: pa.int64()
        if name == "item_id"
        else pa.string()
        if name == "text"
        else FLOATS
        for name in columns
    }
    write(folder, "item_content", columns, types)
    return search_tables.open_table(folder, "item_content")


def check(table, widths):
    """Validates in one batch; returns accepted rows and reasons by row."""
    (batch,) = table.rows.iter_batches()
    numbers = pa.array(range(batch.num_rows))
    batch = pa.RecordBatch.from_arrays(
        [*batch.columns, numbers], names=[*batch.schema.names, "row"]
    )
    good, bad = search_validation.validate(table, widths, batch)
    reasons = dict(
        zip(bad["row"].to_pylist(), bad["reason"].to_pylist(), strict=True)
    )
    assert sorted([*good["row"].to_pylist(), *reasons]) == numbers.to_pylist()
    return good, reasons


def test_modalities_are_found_by_their_columns(tmp_path):
    table = content(
        tmp_path,
        item_id=[1, 2, 3],
        image_vector=[[1.0, 2.0], None, [3.0, 4.0]],
        text=["a", None, " "],
        side_view_vector=[None, [1.0] * 3, None],
    )
    assert table.vectors == {
        "image": "image_vector",
        "side_view": "side_view_vector",
    }
    assert table.modalities == ("image", "side_view", "text")
    assert table.widths() == {"image": 2, "side_view": 3}
    found = events(tmp_path, [EVENT])
    assert found.vectors == {"image": "query_image_vector"}
    assert found.text == "query_text"
    assert sorted(search_tables.find_tables(tmp_path)) == [
        "item_content",
        "search_events",
    ]
    assert search_tables.find_tables(tmp_path / "nowhere") == {}


def test_widths_are_declared_or_the_most_frequent(tmp_path):
    table = content(
        tmp_path,
        item_id=range(1, 8),
        a_vector=[[1.0]] * 2 + [[1.0, 2.0]] * 3 + [None, []],
        b_vector=[[1.0], [1.0, 2.0]] * 2 + [None] * 3,
        text=["t"] * 7,
    )
    assert table.widths() == {"a": 2, "b": 2}
    assert table.widths({"a": 1, "other": 9}) == {"a": 1, "b": 2}
    none = content(tmp_path, item_id=[1], a_vector=[None], text=["t"])
    with pytest.raises(DataError, match="column a_vector holds no vector"):
        none.widths()
    assert none.widths({"a": 4}) == {"a": 4}


@pytest.mark.parametrize(
    ("data_type", "second"),
    [
        (pa.list_(pa.float64()), None),
        (pa.large_list(pa.float32()), None),
        # This Parquet writer takes no null among lists of fixed size.
        (pa.list_(pa.float32(), 2), [0.0, 7.0]),
    ],
    ids=str,
)
def test_any_list_of_floats_is_read(tmp_path, data_type, second):
    write(
        tmp_path,
        "item_content",
        {"item_id": [1, 2, 3], "x_vector": [[1.0, 2.0], second, [0.5, 4.0]]},
        {"item_id": pa.int64(), "x_vector": data_type},
    )
    table = search_tables.open_table(tmp_path, "item_content")
    widths = table.widths()
    good, reasons = check(table, widths)
    assert reasons == ({} if second else {1: search_validation.NO_CONTENT})
    found = search_tables.features(table, widths, good, None)["x"]
    assert found.dtype == np.float32
    assert found[[0, -1]].tolist() == [[1, 2], [0.5, 4]]


@pytest.mark.parametrize(
    ("columns", "code", "text"),
    [
        ({"item_id": [1]}, "MISSING_COLUMN", "<modality>_vector"),
        ({"text": ["a"]}, "MISSING_COLUMN", "item_id"),
        ({"item_id": ["1"], "text": ["a"]}, "WRONG_TYPE", "item_id"),
        ({"item_id": [1], "text": [7]}, "WRONG_TYPE", "Expected: string"),
        (
            {"item_id": [1], "image_vector": [[7]]},
            "WRONG_TYPE",
            "image_vector has the wrong type. Expected: list<float>. "
            "Received: list<int64>",
        ),
        (
            {"item_id": [1], "text": ["a"], "text_vector": [[0.5]]},
            "AMBIGUOUS_MODALITY",
            "text and text_vector",
        ),
        (
            {"item_id": [1], "item_ids_vector": [[0.5]]},
            "WRONG_NAME",
            "item_ids_vector",
        ),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, columns, code, text):
    write(tmp_path / "set", "item_content", columns)
    with pytest.raises(DataError) as error:
        search_tables.open_table(tmp_path / "set", "item_content")
    assert error.value.code == code and text in error.value.message


def test_missing_and_damaged_tables(tmp_path):
    with pytest.raises(DataError) as error:
        content(tmp_path / "empty", item_id=[], text=[])
    assert error.value.code == "EMPTY_TABLE"
    with pytest.raises(DataError, match="table search_events: not found"):
        search_tables.open_table(tmp_path, "search_events")
    (tmp_path / "item_content.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(DataError) as error:
        search_tables.open_table(tmp_path, "item_content")
    assert error.value.code == "UNREADABLE_FILE"
    with pytest.raises(ValueError, match="name: expected one of"):
        search_tables.open_table(tmp_path, "items")


def test_every_broken_item_row_has_its_reason(tmp_path):
    good = [1.0, -2.0]
    cases = [
        (1, good, "text", None),
        (None, good, "text", validation.NULL),
        (0, good, "text", validation.MISSING_ID),
        (2, [1.0], "text", search_validation.WRONG_DIMENSION),
        (3, [1.0, 2.0, 3.0], None, search_validation.WRONG_DIMENSION),
        (4, [1.0, NAN], "text", search_validation.NOT_FINITE),
        (5, [-INF, 0.0], None, search_validation.NOT_FINITE),
        (6, [0.0, -0.0], "text", search_validation.ZERO_VECTOR),
        (7, [1.0, None], "text", validation.NULL),
        (8, None, None, search_validation.NO_CONTENT),
        (9, [], " \t", search_validation.NO_CONTENT),
        (10, None, "text", None),
        (11, [], "text", None),
        (12, good, None, None),
        (-(2**63), [1e-30, 0.0], "", None),
        (None, [NAN], None, validation.NULL),
    ]
    ids, vectors, texts, reasons = zip(*cases, strict=True)
    table = content(tmp_path, item_id=ids, image_vector=vectors, text=texts)
    found, rejected = check(table, {"image": 2})
    assert rejected == {i: r for i, r in enumerate(reasons) if r}
    vectors = search_tables.features(
        table, {"image": 2}, found, lambda t: np.array([[len(x)] for x in t])
    )
    assert vectors["image"].tolist() == [
        good,
        [0, 0],
        [0, 0],
        good,
        [np.float32(1e-30), 0],
    ]
    assert vectors["text"].reshape(-1).tolist() == [4, 4, 4, 0, 0]


def test_every_broken_event_has_its_reason(tmp_path):
    changes = [
        ({}, None),
        ({"query_id": None}, validation.NULL),
        ({"time": None}, validation.NULL),
        ({"purchased_item_id": None}, validation.NULL),
        ({"clicked_item_ids": None}, validation.NULL),
        ({"clicked_item_ids": [1, None]}, validation.NULL),
        ({"query_id": 0}, validation.MISSING_ID),
        ({"purchased_item_id": 0}, validation.MISSING_ID),
        ({"query_image_vector": [1.0]}, search_validation.WRONG_DIMENSION),
        ({"query_image_vector": [INF, 1.0]}, search_validation.NOT_FINITE),
        ({"query_image_vector": [0.0, 0.0]}, search_validation.ZERO_VECTOR),
        (
            {"query_image_vector": None, "query_text": None},
            search_validation.NO_CONTENT,
        ),
        ({"query_image_vector": None, "time": 0}, None),
        ({"clicked_item_ids": [], "query_text": None}, None),
    ]
    table = events(tmp_path, [{**EVENT, **change} for change, _ in changes])
    _, rejected = check(table, {"image": 2})
    assert rejected == {i: r for i, (_, r) in enumerate(changes) if r}


def test_rows_whose_text_gives_nothing_are_rejected_late(tmp_path):
    table = content(
        tmp_path,
        item_id=[1, 2, 3],
        image_vector=[None, [1.0], None],
        text=["?!", "?!", "word"],
    )
    good, reasons = check(table, {"image": 1})
    assert not reasons
    vectors = search_tables.features(
        table, {"image": 1}, good, lambda t: np.array([[0], [0], [5]])
    )
    kept, bad, vectors = search_validation.drop_empty(good, vectors)
    assert kept["item_id"].to_pylist() == [2, 3]
    assert bad.to_pylist()[0]["item_id"] == 1
    assert bad["reason"].to_pylist() == [search_validation.NO_CONTENT]
    assert vectors["image"].tolist() == [[1], [0]]


def test_clicks_against_a_loop(tmp_path):
    rng = np.random.default_rng(3)
    known = np.array([-5, 1, 2, 3, 4])
    rows = [
        {
            **EVENT,
            "purchased_item_id": int(rng.choice(known)),
            "clicked_item_ids": rng.integers(
                -6, 7, rng.integers(0, 7)
            ).tolist(),
        }
        for _ in range(200)
    ]
    (batch,) = events(tmp_path, rows).rows.iter_batches()
    found, counts = search_validation.clean_clicks(batch.slice(20), known)
    wanted, dropped = [], dict.fromkeys(counts, 0)
    for row in rows[20:]:
        kept: list[int] = []
        for item in row["clicked_item_ids"]:
            if item == 0:
                dropped["padding"] += 1
            elif item == row["purchased_item_id"]:
                dropped["purchased item"] += 1
            elif item not in known:
                dropped["item without content"] += 1
            elif item in kept:
                dropped["repeated"] += 1
            else:
                kept.append(item)
        wanted.append(kept)
    assert found["clicked_item_ids"].to_pylist() == wanted
    assert counts == dropped and len(dropped) == 4


def test_matrices_become_lists_and_back():
    matrix = np.array([[0, 0], [1, 2], [0, 3], [0, 0]], np.float32)
    lists = search_tables.float_lists(matrix)
    assert lists.to_pylist() == [None, [1, 2], [0, 3], None]
    np.testing.assert_array_equal(search_tables.vectors(lists, 2), matrix)
    part = lists.slice(1, 2)
    np.testing.assert_array_equal(search_tables.vectors(part, 2), matrix[1:3])
    assert search_tables.float_lists(matrix[1:2]).null_count == 0


SHOP = """
name: shop
item: {column: sku, type: string}
features: {item: {color: }}
"""


def test_the_item_table_has_texts_if_they_are_declared(tmp_path):
    (tmp_path / "schema.yaml").write_text(SHOP + "text: title\n")
    items = {"title": ["tea", None], "sku": ["a", "b"], "color": [1, 2]}
    write(tmp_path, "item_features", items)
    table = search_tables.open_table(tmp_path, "item_content")
    (batch,) = table.rows.iter_batches()
    assert batch.to_pydict() == {
        "item_id": stable_ids("item_id", ["a", "b"]).tolist(),
        "text": ["tea", None],
    }
    assert table.modalities == ("text",)
    write(tmp_path, "item_features", {"sku": ["a"], "color": [1]})
    with pytest.raises(DataError, match=r"column title \(text\) is missing"):
        search_tables.open_table(tmp_path, "item_content")


def test_texts_of_items_are_ids_as_in_the_other_tables(tmp_path):
    (tmp_path / "schema.yaml").write_text(SHOP)
    row = {**EVENT, "purchased_item_id": "a", "clicked_item_ids": ["b", "a"]}
    columns = {name: [value] for name, value in row.items()}
    write(tmp_path, "search_events", columns)
    table = search_tables.open_table(tmp_path, "search_events")
    (batch,) = table.rows.iter_batches()
    a, b = stable_ids("item_id", ["a", "b"]).tolist()
    assert batch["purchased_item_id"].to_pylist() == [a]
    assert batch["clicked_item_ids"].to_pylist() == [[b, a]]
