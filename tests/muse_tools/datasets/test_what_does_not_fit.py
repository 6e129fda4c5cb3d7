"""What does not fit is one line that names it, and following it helps.

Each case spoils the declaration or the tables of a shop, is told so by
``muse data inspect --schema``, and is mended as the line says.
"""

import copy
import math
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from muse_tools.cli.data import app

AT = 1_772_323_200  # March 1, 2026
DAY = 86_400
DECLARED = {
    "name": "shop",
    "user": {"column": "uid", "type": "string"},
    "item": "sku",
    "labels": {"click": "clicked", "order": "ordered"},
    "weight": "weight",
    "features": {
        "user": {"age": {"type": "float"}},
        "item": {
            "brand": {"type": "string"},
            "size": None,
            "price": {"type": "float"},
            "tags": {"many": 2, "separator": "|"},
            "look": {"type": "vector", "dim": 2},
        },
        "context": {"device": {"type": "string"}, "hour": {"time": "hour"}},
        "candidate": {"position": {"training_only": True}},
        "behavior": {
            "brand": None,
            "kind": {"type": "string"},
            "since": {"time": "since"},
        },
        "matches": ["brand"],
    },
    "log": {
        "time": "shown_at",
        "event_time": "at",
        "action": "kind",
        "train": ["2026-03-01", "2026-03-02"],
        "eval": ["2026-03-03", "2026-03-04"],
    },
}
TABLES = {
    "impressions": {
        "uid": ["a", "b", "a", "b"],
        "sku": [1, 2, 3, 1],
        "clicked": [0, 1, 0, 1],
        "ordered": [0, 1, 0, 0],
        "weight": [1.0, 2.0, 0.5, 1.0],
        "device": ["tv", "phone", "tv", "tv"],
        "position": [1, 2, 3, 4],
        "shown_at": [AT + 5, AT + 9, AT + 2 * DAY, AT + 2 * DAY + 1],
    },
    "events": {
        "uid": ["a", "b"],
        "sku": [1, 2],
        "at": [AT, AT + 2],
        "kind": ["view", "click"],
    },
    "users": {"uid": ["a", "b"], "age": [30.5, None]},
    "items": {
        "sku": [1, 2, 3],
        "brand": ["x", "y", "x"],
        "size": [7, 8, 9],
        "price": [1.5, 2.5, None],
        "tags": ["1|2", "", "2|1"],
        "look": [[0.5, 1.0], None, [1.0, 2.0]],
    },
    "vectors": {"sku": [1, 2, 3], "item_vector": [[0.5] * 128] * 3},
}


class Shop:
    """The declaration and the tables, to be spoiled and mended."""

    def __init__(self):
        self.declared = copy.deepcopy(DECLARED)
        self.tables = copy.deepcopy(TABLES)

    def declare(self, path, value=None, remove=False):
        *sections, leaf = path.split(".")
        section = self.declared
        for one in sections:
            section = section[one]
        if remove:
            del section[leaf]
        else:
            section[leaf] = value

    def inspect(self, folder):
        """Returns the exit code and the lines of what is wrong."""
        schema = folder / "own.yaml"
        schema.write_text(yaml.safe_dump(self.declared, sort_keys=False))
        data = folder / "data"
        data.mkdir(exist_ok=True)
        for name, columns in self.tables.items():
            table = columns
            if isinstance(columns, dict):
                table = pa.table(columns)
            pq.write_table(table, data / f"{name}.parquet")
        command = ["inspect", str(data), "--schema", str(schema)]
        done = CliRunner().invoke(app, command)
        lines = done.output.splitlines()
        return done.exit_code, [
            line
            for line in lines
            if line.startswith(("error: ", "note: ")) and "not used" not in line
        ]


def put(table, column, values):
    return lambda shop: shop.tables[table].update({column: values})


def drop(table, column):
    return lambda shop: shop.tables[table].pop(column)


def declare(path, value=None, remove=False):
    return lambda shop: shop.declare(path, value, remove)


def back(table, column):
    return put(table, column, TABLES[table][column])


def append(table, row):
    def add(shop):
        for name, value in row.items():
            shop.tables[table][name].append(value)

    return add


def seconds(shop):
    shop.tables["impressions"]["shown_at"] = [
        value // 1000 for value in shop.tables["impressions"]["shown_at"]
    ]


def first_rows(table):
    return lambda shop: shop.tables.update(
        {table: copy.deepcopy(TABLES[table])}
    )


ITEM = {
    "sku": 9,
    "brand": "z",
    "size": 1,
    "price": 1.0,
    "tags": "1",
    "look": None,
}
SHOWN = {name: values[0] for name, values in TABLES["impressions"].items()}

# Spoil, what the line has, mend.
DATA = {
    "missing column": (
        drop("items", "price"),
        [
            "MISSING_COLUMN",
            "table item_features",
            "column price",
            "schema.yaml",
        ],
        declare("features.item.price", remove=True),
    ),
    "missing column of another name": (
        lambda shop: shop.tables["items"].update(
            cost=shop.tables["items"].pop("price")
        ),
        ["MISSING_COLUMN", "column price", "name another column", "cost"],
        declare("features.item.price", {"type": "float", "column": "cost"}),
    ),
    "missing column of a context": (
        drop("impressions", "device"),
        ["MISSING_COLUMN", "table impressions", "device (context_device)"],
        back("impressions", "device"),
    ),
    "texts as categories": (
        put("items", "size", ["s", "m", "l"]),
        ["WRONG_TYPE", "item_features", "size", "int64", "string"],
        declare("features.item.size", {"type": "string"}),
    ),
    "numbers as texts": (
        put("items", "brand", [4, 5, 6]),
        ["WRONG_TYPE", "item_features", "brand", "string", "int64"],
        declare("features.item.brand", {}),
    ),
    "texts as numbers": (
        put("items", "price", ["1", "2", "3"]),
        ["WRONG_TYPE", "item_features", "price", "a number", "string"],
        put("items", "price", [1, 2, 3]),
    ),
    "fractions as categories": (
        put("items", "size", [1.5, 2.0, 3.0]),
        ["WRONG_TYPE", "item_features", "size", "1.5"],
        declare("features.item.size", {"type": "float"}),
    ),
    "text in a list of numbers": (
        put("items", "tags", ["1|x", "2", ""]),
        ["WRONG_TYPE", "item_features", "tags", "'|' between", "'x'"],
        declare(
            "features.item.tags",
            {"many": 2, "separator": "|", "type": "string"},
        ),
    ),
    "one value for a list": (
        put("items", "tags", [1, 2, 3]),
        ["WRONG_TYPE", "item_features", "tags", "list<int64>"],
        put("items", "tags", [[1], [2], [3]]),
    ),
    "another separator": (
        declare(
            "features.item.tags",
            {"many": 2, "separator": ";", "type": "string"},
        ),
        ["item_features, column tags", "first 2 values", "';'", "most", "'|'"],
        declare("features.item.tags", {"many": 2, "separator": "|"}),
    ),
    "longer lists": (
        put("items", "tags", ["1|2|3", "1|2|3", ""]),
        ["item_features", "tags", "2 rows have more values than 2", "many"],
        declare("features.item.tags", {"many": 3, "separator": "|"}),
    ),
    "time in the future": (
        put("events", "at", [AT, int(time.time()) + 9 * DAY]),
        ["events", "at (time)", "1 rows", "time in the future", "Fix: "],
        back("events", "at"),
    ),
    "milliseconds": (
        put(
            "impressions", "shown_at", [(AT + i * DAY) * 1000 for i in range(4)]
        ),
        ["impressions", "4 time in the future", "milliseconds"],
        seconds,
    ),
    "time that is a text": (
        put("events", "at", ["yesterday", "today"]),
        ["WRONG_TYPE", "events", "at (time)", "timestamp", "string"],
        back("events", "at"),
    ),
    "no day of the training impressions": (
        declare("log.train", ["2025-03-01", "2025-03-24"]),
        [
            "EMPTY_SPLIT",
            "log.train: no impression is from 2025-03-01 to 2025-03-24",
            "the impressions are from 2026-03-01 to 2026-03-03",
        ],
        declare("log.train", ["2026-03-01", "2026-03-02"]),
    ),
    "no day of the evaluation impressions": (
        put("impressions", "shown_at", [AT + 5, AT + 9, AT + 7, AT + 8]),
        ["EMPTY_SPLIT", "log.eval", "2026-03-04", "2026-03-01 to 2026-03-01"],
        back("impressions", "shown_at"),
    ),
    "actions that do not occur": (
        declare("log.keep", ["view", "order", "buy"]),
        ["NO_SUCH_ACTION", "the action buy, order;", "kind are view, click"],
        declare("log.keep", ["view", "click"]),
    ),
    "events of other users": (
        put("events", "uid", ["A", "B"]),
        ["NO_HISTORY", "no event belongs to a user of the impressions"],
        back("events", "uid"),
    ),
    "events after all impressions": (
        put("events", "at", [AT + 3 * DAY, AT + 4 * DAY]),
        ["NO_HISTORY", "first event (2026-03-04T00:00:00+00:00) is not before"],
        back("events", "at"),
    ),
    "unknown user": (
        append("impressions", {**SHOWN, "uid": "nobody"}),
        ["impressions", "uid (user_id)", "no user row, such as 'nobody'. Fix"],
        append("users", {"uid": "nobody", "age": 5.0}),
    ),
    "unknown item": (
        append("impressions", {**SHOWN, "sku": 9}),
        ["impressions", "sku (item_id)", "no item row", "such as 9"],
        append("items", ITEM),
    ),
    "duplicate key": (
        append("items", {**ITEM, "sku": 3}),
        ["item_features", "sku (item_id)", "duplicate item row", "such as 3"],
        first_rows("items"),
    ),
    "duplicate user": (
        append("users", {"uid": "a", "age": 1.0}),
        ["users", "uid (user_id)", "1 rows", "duplicate user row, such as 'a'"],
        first_rows("users"),
    ),
    "key 0": (
        append("impressions", {**SHOWN, "sku": 0}),
        ["impressions", "sku (item_id)", "id is 0", "such as 0"],
        first_rows("impressions"),
    ),
    "no key": (
        append("impressions", {**SHOWN, "uid": None}),
        ["impressions", "uid (user_id)", "null", "Fix: "],
        first_rows("impressions"),
    ),
    "label out of range": (
        put("impressions", "ordered", [0, 1, 5, 0]),
        ["impressions", "ordered (label_order)", "not 0 or 1", "such as 5"],
        declare("labels.order", {"column": "ordered", "at_least": 1}),
    ),
    "label that is null": (
        put("impressions", "ordered", [0, 1, None, 0]),
        ["impressions", "ordered (label_order)", "null"],
        back("impressions", "ordered"),
    ),
    "negative weight": (
        put("impressions", "weight", [1.0, -2.0, 1.0, 1.0]),
        ["impressions", "weight", "from 0 on", "such as -2.0", "Fix: "],
        declare("weight", remove=True),
    ),
    "vector of another length": (
        put("items", "look", [[0.5, 1.0], [1.0], [1.0, 2.0]]),
        ["item_features", "look", "another length", "such as 1 values", "dim"],
        put("items", "look", [[0.5, 1.0], None, [1.0, 2.0]]),
    ),
    "vector with a gap": (
        put("items", "look", [[0.5, None], None, [1.0, 2.0]]),
        ["item_features", "look", "not finite", "Fix: "],
        put("items", "look", [None, None, [1.0, 2.0]]),
    ),
    "infinite number": (
        put("users", "age", [math.inf, 2.0]),
        ["users", "age (user_age)", "not finite", "such as inf"],
        put("users", "age", [None, 2.0]),
    ),
    "item vectors of another length": (
        put("vectors", "item_vector", [[0.5] * 128] * 2 + [[0.5] * 64]),
        ["scl_embedding_int8_p90", "item_vector", "such as 64 values", "PCA"],
        put(
            "vectors",
            "item_vector",
            [[0.5] * 128] * 2 + [[0.5] * 64 + [0.0] * 64],
        ),
    ),
}

DECLARATIONS = {
    "two features of one name": (
        declare("features.user.price", {"type": "float"}),
        ["features.user", "features.item", "'price' in both"],
        declare("features.user.price", remove=True),
    ),
    "a name that is taken": (
        declare("features.item.id"),
        ["features.item", "none of", "'id'"],
        declare("features.item.id", remove=True),
    ),
    "unknown kind": (
        declare("features.item.size", {"type": "number"}),
        ["features.item.size.type", "'float'", "'number'"],
        declare("features.item.size", {"type": "float"}),
    ),
    "unknown key": (
        declare("features.item.tags.seperator", "|"),
        ["features.item.tags.seperator", "features.item.tags.separator?"],
        declare("features.item.tags.seperator", remove=True),
    ),
    "many of numbers": (
        declare("features.item.price", {"type": "float", "many": 2}),
        ["features.item.price", "many needs", "int64 or string", "float"],
        declare("features.item.price", {"type": "float"}),
    ),
    "separator of one value": (
        declare("features.item.brand", {"type": "string", "separator": "|"}),
        ["features.item.brand", "separator is for lists", "many", "'|'"],
        declare("features.item.brand", {"type": "string"}),
    ),
    "hashed numbers": (
        declare("features.item.price", {"type": "float", "hashed": 100}),
        ["features.item.price", "hashed needs", "int64 or string", "float"],
        declare("features.item.price", {"type": "float", "buckets": 10}),
    ),
    "one bucket": (
        declare("features.item.price", {"type": "float", "buckets": 1}),
        ["features.item.price", "at least two buckets", "buckets: 1"],
        declare("features.item.price", {"type": "float", "buckets": 2}),
    ),
    "buckets of categories": (
        declare("features.item.size", {"buckets": 4}),
        ["features.item.size", "buckets needs", "type: float", "int64"],
        declare("features.item.size", {"type": "float", "buckets": 4}),
    ),
    "vector without dim": (
        declare("features.item.look", {"type": "vector"}),
        ["features.item.look", "needs dim"],
        declare("features.item.look", {"type": "vector", "dim": 2}),
    ),
    "a user that is for training only": (
        declare(
            "features.user.age",
            {"type": "float", "buckets": 2, "training_only": True},
        ),
        ["features.user.age.training_only", "context and candidate"],
        declare("features.user.age", {"type": "float", "buckets": 2}),
    ),
    "numbers for training only": (
        declare(
            "features.candidate.position",
            {"type": "float", "training_only": True},
        ),
        ["features.candidate.position.training_only", "buckets"],
        declare("features.candidate.position", {"training_only": True}),
    ),
    "time of an item": (
        declare("features.item.age_of", {"time": "hour"}),
        ["features.item.age_of.time", "hour or weekday of context"],
        declare("features.item.age_of", remove=True),
    ),
    "time with a column": (
        declare("features.context.hour", {"time": "hour", "column": "at"}),
        ["features.context.hour", "no column", "'at'"],
        declare("features.context.hour", {"time": "hour"}),
    ),
    "match of what is no behavior": (
        declare("features.matches", ["brand", "size"]),
        ["features.matches", "features.behavior, brand", "'size'"],
        declare("features.behavior.size"),
    ),
    "match of behaviors' own": (
        declare("features.matches", ["kind"]),
        ["features.matches", "expected item features", "'kind'"],
        declare("features.matches", ["brand"]),
    ),
    "number of behaviors": (
        declare("features.behavior.spent", {"type": "float"}),
        ["features.behavior.spent", "a number in buckets", "float"],
        declare("features.behavior.spent", remove=True),
    ),
    "column twice": (
        declare("features.item.size", "sku"),
        ["table items", "item_id and item_size", "'sku' twice"],
        declare("features.item.size"),
    ),
    "no label": (
        declare("labels", {}),
        ["labels", "at least 1"],
        declare("labels", {"click": "clicked"}),
    ),
    "one hot in logs": (
        declare("labels.click", {"column": "clicked", "one_hot": True}),
        ["labels.click.one_hot", "false in logs"],
        declare("labels.click", "clicked"),
    ),
    "eval before train": (
        declare("log.eval", ["2026-02-01", "2026-02-02"]),
        ["log", "on later days", "2026-02-01"],
        declare("log.eval", ["2026-03-03", "2026-03-03"]),
    ),
    "keep without actions": (
        lambda shop: shop.declared["log"].update(keep=["click"], action=""),
        ["log.keep", "log.action"],
        declare("log.action", "kind"),
    ),
}


def follow(folder, case):
    spoil, parts, mend = case
    shop = Shop()
    spoil(shop)
    code, lines = shop.inspect(folder)
    found = [line for line in lines if all(part in line for part in parts)]
    assert len(found) == 1, (parts, lines)
    assert code == (0 if found[0].startswith("note: ") else 1)
    mend(shop)
    assert shop.inspect(folder) == (0, [])
    return found[0]


def test_the_shop_fits(tmp_path):
    assert Shop().inspect(tmp_path) == (0, [])


@pytest.mark.parametrize("case", DATA)
def test_data_that_do_not_fit(tmp_path, case):
    line = follow(tmp_path, DATA[case])
    assert "Fix: " in line or "To use more" in line


@pytest.mark.parametrize("case", DECLARATIONS)
def test_declarations_that_do_not_fit(tmp_path, case):
    line = follow(tmp_path, DECLARATIONS[case])
    assert str(tmp_path / "own.yaml") in line and "docs/own-data.md" in line


def test_time_since_needs_a_log(tmp_path):
    shop = Shop()
    del shop.declared["log"]
    shop.declare("features.context.hour", remove=True)
    code, (line,) = shop.inspect(tmp_path)
    assert code == 1 and "features.behavior.since.time" in line
    assert "with the section log" in line
