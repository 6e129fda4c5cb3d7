"""Hints about the search tables, followed to the letter."""

import re

import numpy as np
import pyarrow as pa
import pytest

from tests.muse_tools.datasets.hints import Case, add_searches, check, rewrite


def without(table):
    def spoil(case):
        add_searches(case)
        del case.tables[table]

    return spoil


def follow_remove(case, hint):
    assert "or remove search_events" in hint
    del case.tables["search_events"]


def search(table, column, make):
    """Returns what adds search tables and replaces one of their columns."""

    def spoil(case):
        add_searches(case)
        case.set([table], column, make)

    return spoil


def renamed(table, columns):
    def spoil(case):
        add_searches(case)
        names = case.tables[table].column_names
        case.tables[table] = case.tables[table].rename_columns(
            [columns.get(name, name) for name in names]
        )

    return spoil


def follow_rename(case, hint):
    assert "rename" in hint
    renamed("item_content", {"9_vector": "image_vector"})(case)


def follow_leave_out(case, hint):
    assert "leave" in hint
    for table in ("item_content", "search_events"):
        for column in case.tables[table].column_names:
            if "image_vector" in column or column == "text_vector":
                case.tables[table] = case.tables[table].drop([column])


def follow_float_lists(case, hint):
    assert "write column image_vector as list<float>" in hint
    case.set(
        ["item_content"],
        "image_vector",
        lambda c: c.cast(pa.list_(pa.float32())),
    )


def follow_time(case, hint):
    first, second = re.search(
        r"column\.cast\('(.*)'\)\.cast\('(.*)'\)", hint
    ).groups()
    case.set(["search_events"], "time", lambda c: c.cast(first).cast(second))
    assert case.tables["search_events"]["time"].equals(
        case.good["search_events"]["time"]
    )


def as_time(kind):
    return lambda c: c.cast(pa.timestamp("s")).cast(kind)


def scalar_clicks(column):
    return [row[0] for row in column.to_pylist()]


CASES = {
    "no content": (
        without("item_content"),
        "MISSING_TABLE",
        rewrite("add item_content.parquet"),
    ),
    "no searches": (without("item_content"), "MISSING_TABLE", follow_remove),
    "wide queries": (
        search("search_events", "query_image_vector", lambda c: [[1.0]] * 9),
        "NO_USABLE_ROWS",
        follow_leave_out,
    ),
    "no image": (
        search(
            "item_content",
            "image_vector",
            lambda c: pa.array([[]] * 8 + [None], c.type),
        ),
        "NO_USABLE_ROWS",
        follow_leave_out,
    ),
    "zero images": (
        search("item_content", "image_vector", lambda c: [[0.0, 0.0]] * 9),
        "NO_USABLE_ROWS",
        rewrite("make the vectors again"),
    ),
    "codes as images": (
        search(
            "item_content",
            "image_vector",
            lambda c: c.cast(pa.list_(pa.int8())),
        ),
        "WRONG_TYPE",
        follow_float_lists,
    ),
    "bad name": (
        renamed("item_content", {"image_vector": "9_vector"}),
        "WRONG_NAME",
        follow_rename,
    ),
    "two texts": (
        renamed("item_content", {"image_vector": "text_vector"}),
        "AMBIGUOUS_MODALITY",
        follow_leave_out,
    ),
    "no modality": (
        renamed("item_content", {"text": "a", "image_vector": "b"}),
        "MISSING_COLUMN",
        rewrite("write what the items look like into item_content"),
    ),
    "timestamps": (
        search("search_events", "time", as_time(pa.timestamp("us"))),
        "WRONG_TYPE",
        follow_time,
    ),
    "dates": (
        search("search_events", "time", as_time(pa.date32())),
        "WRONG_TYPE",
        follow_time,
    ),
    "one click": (
        search("search_events", "clicked_item_ids", scalar_clicks),
        "WRONG_TYPE",
        rewrite("write column clicked_item_ids as list<int64>"),
    ),
    "unknown purchases": (
        search(
            "search_events",
            "purchased_item_id",
            lambda c: np.asarray(c) ^ np.int64(5),
        ),
        "NO_USABLE_ROWS",
        rewrite("the rows with: purchased item without content"),
    ),
}


@pytest.mark.parametrize("name", list(CASES))
def test_following_the_hint_mends_the_data(tmp_path, name):
    found = check(Case(tmp_path / "set"), *CASES[name])
    assert found["joins"]
