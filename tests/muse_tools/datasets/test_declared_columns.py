"""Every kind of declared column, from Parquet to accepted rows."""

import datetime
import math
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from muse_tools.datasets import feature_values, raw_tables, validation
from muse_tools.datasets.errors import DataError
from schemas.hashing import stable_id
from schemas.ranking_schema import RankingSchema

NAN = math.nan
NOON = datetime.datetime(2026, 3, 2, 12, tzinfo=datetime.timezone.utc)
SECONDS = int(NOON.timestamp())
SHOP = {
    "name": "shop",
    "user": {"column": "uid", "type": "string"},
    "item": {"column": "sku", "type": "string"},
    "labels": {
        "open": "opened",
        "order": {"column": "ordered"},
        "like": {"column": "stars", "at_least": 4},
    },
    "weight": "importance",
    "features": {
        "user": {
            "age": {"type": "float"},
            "taste": {"type": "vector", "dim": 2},
        },
        "item": {
            "brand": {"type": "string"},
            "price": {"type": "float", "log": True},
            "tags": {"type": "string", "many": 2, "separator": "|"},
            "sizes": {"many": 2, "separator": " "},
            "look": {"type": "vector", "dim": 3, "separator": ","},
        },
        "context": {
            "device": {"type": "string"},
            "hour": {"time": "hour"},
            "load": {"type": "float"},
        },
        "candidate": {"position": {"training_only": True}},
        "behavior": {
            "brand": None,
            "what": {"column": "kind", "type": "string"},
            "dwell": {"type": "float", "buckets": 4},
            "age_of": {"time": "since"},
        },
    },
    "log": {
        "request": {"column": "page", "type": "string"},
        "action": "kind",
        "train": ["2026-03-01", "2026-03-28"],
        "eval": ["2026-03-29", "2026-03-31"],
    },
}
DECLARED = RankingSchema.model_validate(SHOP)


def read(folder, name, columns, declared=DECLARED):
    """Writes a table and returns its rows as they are read."""
    file = raw_tables.file_names(declared)[name]
    pq.write_table(pa.table(columns), folder / f"{file}.parquet")
    tables = raw_tables.RawTables.open(folder, declared=declared)
    (batch,) = tables[name].iter_batches()
    assert batch.schema.equals(raw_tables.schemas(declared)[name])
    return batch


def rows(batch):
    """Returns columns as lists; NaN as a text, which equals itself."""

    def plain(value):
        if isinstance(value, list):
            return [plain(one) for one in value]
        return "NaN" if value != value else value

    return {n: plain(batch[n].to_pylist()) for n in batch.schema.names}


def impressions(**changes):
    columns = {
        "opened": [True, False, True],
        "ordered": [0, 1, 0],
        "stars": [4.5, NAN, 3.0],
        "uid": ["a", "b", "a"],
        "sku": ["x", "y", "x"],
        "importance": [1, 0, 3],
        "time": pa.array([NOON] * 3, pa.timestamp("ms", "UTC")),
        "page": ["p1", "p2", "p1"],
        "device": ["phone", None, ""],
        "load": [0.5, None, NAN],
        "position": [1, None, 3],
    }
    return columns | changes


def test_impressions_of_every_kind(tmp_path):
    batch = read(tmp_path, "impressions", impressions())
    assert rows(batch) == {
        "click": [1, 0, 1],
        "label_order": [0, 1, 0],
        "label_like": [1, None, 0],
        "user_id": [stable_id("user_id", t) for t in "aba"],
        "item_id": [stable_id("item_id", t) for t in "xyx"],
        "weight": [1.0, 0.0, 3.0],
        "time": [SECONDS] * 3,
        "request_id": [stable_id("request_id", t) for t in ("p1", "p2", "p1")],
        "context_device": [stable_id("context_device", "phone"), None, 0],
        "context_load": [0.5, None, "NaN"],
        "candidate_position": [1, None, 3],
    }
    assert batch.schema.field("weight").type == pa.float32()
    found = validation.validate("impressions", batch)
    assert found.counts == {validation.NULL: 1}
    good = rows(found.good)
    assert good["context_device"] == [stable_id("context_device", "phone"), 0]
    assert good["context_load"] == [0.5, "NaN"]
    assert good["candidate_position"] == [1, 3]
    likes = validation.clicks(found.good, "label_like")
    np.testing.assert_array_equal(likes, [1, 0])


DAY = 86_400


@pytest.mark.parametrize(
    ("column", "values", "reason"),
    [
        ("importance", [1.0, -0.5, 2.0], validation.WRONG_WEIGHT),
        ("importance", [1.0, NAN, 2.0], validation.WRONG_WEIGHT),
        ("importance", [1.0, None, 2.0], validation.WRONG_WEIGHT),
        ("importance", [1.0, math.inf, 2.0], validation.WRONG_WEIGHT),
        ("ordered", [0, 2, 1], validation.LABEL_NOT_BINARY),
        ("ordered", [0, None, 1], validation.NULL),
        ("load", [0.0, -math.inf, 1.0], validation.NOT_FINITE),
        ("page", ["p", None, "q"], validation.NULL),
        (
            "time",
            [SECONDS, int(time.time()) + 2 * DAY, SECONDS],
            validation.FUTURE,
        ),
        ("time", [SECONDS, SECONDS * 1000, SECONDS], validation.FUTURE),
        ("time", [SECONDS, 20260320, 20261320], validation.DATE_NUMBER),
    ],
)
def test_rows_that_are_rejected(tmp_path, column, values, reason):
    changed = impressions(stars=[1, 5, 2], **{column: values})
    found = validation.validate(
        "impressions", read(tmp_path, "impressions", changed)
    )
    assert found.counts == {reason: 1}
    assert found.rejected["item_id"].to_pylist() == [stable_id("item_id", "y")]
    assert reason in validation.REASONS


def test_a_time_up_to_a_day_ahead_is_accepted(tmp_path):
    ahead = int(time.time()) + DAY // 2
    changed = impressions(stars=[1, 5, 2], time=[SECONDS, ahead, SECONDS])
    batch = read(tmp_path, "impressions", changed)
    assert validation.validate("impressions", batch).good.num_rows == 3


def test_events_have_their_own_features(tmp_path):
    batch = read(
        tmp_path,
        "events",
        {
            "uid": ["a", "b"],
            "sku": ["x", "y"],
            "time": [SECONDS, int(time.time()) + 2 * DAY],
            "kind": ["view", "buy"],
            "dwell": pa.array([7, None], pa.int32()),
        },
    )
    assert rows(batch) == {
        "user_id": [stable_id("user_id", t) for t in "ab"],
        "item_id": [stable_id("item_id", t) for t in "xy"],
        "time": batch["time"].to_pylist(),
        "behavior_what": [
            stable_id("behavior_what", t) for t in ("view", "buy")
        ],
        "behavior_dwell": [7.0, None],
        "action": ["view", "buy"],
    }
    found = validation.validate("events", batch)
    assert found.counts == {validation.FUTURE: 1}


def items(**changes):
    columns = {
        "sku": ["x", "y", "z"],
        "brand": ["acme", None, "b"],
        "price": pa.array([2, None, 5], pa.int64()),
        "tags": ["new| red |x", "", None],
        "sizes": [" 36  38 40", "42", None],
        "look": ["1,2,3", "", "-1, 0.5,1e1"],
    }
    return columns | changes


def test_items_with_lists_as_texts(tmp_path):
    batch = read(tmp_path, "item_features", items())
    tags = [stable_id("item_tags", t) for t in ("new", "red", "x")]
    assert rows(batch) == {
        "item_id": [stable_id("item_id", t) for t in "xyz"],
        "item_brand": [
            stable_id("item_brand", "acme"),
            None,
            stable_id("item_brand", "b"),
        ],
        "item_price": [2.0, None, 5.0],
        "item_tags": [tags, [], []],
        "item_sizes": [[36, 38, 40], [42], []],
        "item_look": [[1.0, 2.0, 3.0], None, [-1.0, 0.5, 10.0]],
    }
    assert feature_values.longer(batch) == {"item_tags": 1, "item_sizes": 1}
    good = validation.validate("item_features", batch).good
    found = rows(good)
    assert found["item_tags"] == [tags[:2], [], []]
    assert found["item_sizes"] == [[36, 38], [42], []]
    assert found["item_brand"][1] == 0 and found["item_price"][1] == "NaN"
    assert found["item_look"] == [[1, 2, 3], ["NaN"] * 3, [-1, 0.5, 10]]
    for kind, column in (
        (pa.int64(), "item_tags"),
        (pa.float32(), "item_look"),
    ):
        assert good[column].type.value_type == kind


@pytest.mark.parametrize("kind", ["list", "large_list", "fixed", "texts"])
def test_lists_and_texts_are_the_same(tmp_path, kind):
    looks = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [0.0, 0.0, 1.0]]
    typed = {
        "list": pa.array(looks, pa.list_(pa.float64())),
        "large_list": pa.array(looks, pa.large_list(pa.float32())),
        "fixed": pa.array(looks, pa.list_(pa.float32(), 3)),
        "texts": [",".join(map(str, one)) for one in looks],
    }[kind]
    batch = read(tmp_path, "item_features", items(look=typed))
    assert batch["item_look"].to_pylist() == looks


@pytest.mark.parametrize(
    ("column", "values", "reason"),
    [
        ("look", ["1,2,3", "1,2", "1,2,3"], validation.VECTOR_LENGTH),
        ("look", ["1,2,3", "1,2,3,4", "1,2,3"], validation.VECTOR_LENGTH),
        ("look", ["1,2,3", "1,,3", "1,2,3"], validation.NOT_FINITE),
        ("look", [[1.0, 2, 3], [1.0, None, 3], None], validation.NOT_FINITE),
        ("look", [[1.0, 2, 3], [], None], validation.VECTOR_LENGTH),
        ("price", [1.0, math.inf, 2.0], validation.NOT_FINITE),
    ],
)
def test_items_that_are_rejected(tmp_path, column, values, reason):
    batch = read(tmp_path, "item_features", items(**{column: values}))
    for cut in (0, 1):
        part = batch.slice(cut)
        found = validation.validate("item_features", part)
        assert found.counts == {reason: 1}
        assert found.good.num_rows == 2 - cut


@pytest.mark.parametrize(
    ("column", "values", "expected", "received"),
    [
        ("sizes", ["36", "x", "38"], "list<int64>, or texts with ' '", "'x'"),
        ("look", ["1,2,3", "1,b,3", ""], "list<a number>", "'b'"),
        ("price", ["1", "2", "3"], "a number", "string"),
        ("brand", [1, 2, 3], "string", "int64"),
        ("tags", [1, 2, 3], "list<string>, or texts with '|'", "int64"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    tmp_path, column, values, expected, received
):
    with pytest.raises(DataError) as info:
        read(tmp_path, "item_features", items(**{column: values}))
    (line,) = str(info.value).splitlines()
    assert f"table item_features: column {column} (item_{column})" in line
    assert f"Expected: {expected}" in line and received in line


HISTORIES = RankingSchema.model_validate(
    {
        "name": "ready",
        "user": {"type": "string"},
        "item": {"type": "string"},
        "features": {
            "item": {"brand": {"type": "string"}},
            "behavior": {
                "brand": "brands",
                "what": {"type": "string"},
                "dwell": {"type": "float", "buckets": 4},
            },
            "user": {"clubs": {"many": 2}},
        },
        "history": {"column": "seen", "separator": " "},
        "vectors": {"separator": " "},
    }
)


@pytest.mark.parametrize("as_texts", [False, True])
def test_ready_made_histories_with_their_own_features(tmp_path, as_texts):
    lists = {
        "seen": [["x", "y"], [], ["z"]],
        "brands": [["a", "b"], [], ["a"]],
        "what": [["view", "buy"], [], ["view"]],
        "dwell": [[1.5, 2.0], [], [3.0]],
    }
    if as_texts:
        lists = {
            name: [" ".join(map(str, one)) for one in column]
            for name, column in lists.items()
        }
    batch = read(
        tmp_path,
        "train_user_features",
        {
            "user_id": ["u", "v", "w"],
            "clubs": [[1, 2, 3], None, []],
            **lists,
        },
        HISTORIES,
    )
    good, rejected = validation.validate("train_user_features", batch)
    assert not rejected.num_rows

    def ids(field, texts):
        return [stable_id(field, text) for text in texts]

    assert rows(good) == {
        "user_id": ids("user_id", "uvw"),
        "user_clubs": [[1, 2], [], []],
        "behavior_item_ids": [
            ids("item_id", "xy"),
            [],
            ids("item_id", "z"),
        ],
        "behavior_brand": [
            ids("item_brand", "ab"),
            [],
            ids("item_brand", "a"),
        ],
        "behavior_what": [
            ids("behavior_what", ["view", "buy"]),
            [],
            ids("behavior_what", ["view"]),
        ],
        "behavior_dwell": [[1.5, 2.0], [], [3.0]],
    }
    assert validation.strip_padding(good).equals(good)


def test_unknown_numbers_of_behaviors_are_missing(tmp_path):
    batch = read(
        tmp_path,
        "train_user_features",
        {
            "user_id": ["u", "v"],
            "clubs": [[], []],
            "seen": [["x", ""], ["z", "y"]],
            "brands": [["a", ""], ["a", "b"]],
            "what": [["view", ""], ["view", "view"]],
            "dwell": [[None, 2.0], [1.0]],
        },
        HISTORIES,
    )
    found = validation.validate("train_user_features", batch)
    assert found.counts == {validation.UNEQUAL_LISTS: 1}
    stripped = rows(validation.strip_padding(found.good))
    assert stripped["behavior_dwell"] == [["NaN"]]
    assert [len(stripped[n][0]) for n in stripped if "behavior" in n] == [1] * 4


def test_vectors_as_texts(tmp_path):
    vector = np.zeros(128)
    vector[[1, 5]] = 0.3, -0.4
    batch = read(
        tmp_path,
        raw_tables.EMBEDDINGS,
        {
            "item_id": ["x", "y"],
            "item_vector": [" ".join(map(str, vector)), ""],
        },
        HISTORIES,
    )
    found = validation.validate(raw_tables.EMBEDDINGS, batch)
    assert found.counts == {validation.EMBEDDING_LENGTH: 1}
    codes = np.array(found.good["item_vector"].to_pylist()[0])
    np.testing.assert_array_equal(codes, np.trunc(127 * vector / 0.5))
