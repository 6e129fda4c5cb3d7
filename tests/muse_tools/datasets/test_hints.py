"""Hints followed to the letter: afterwards the data are fine, and unharmed."""

import re
import shutil

import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.hashing import stable_ids
from tests.muse_tools.datasets.hints import (
    ITEM_IDS,
    Case,
    add_searches,
    check,
    each,
    rewrite,
)

SAMPLES = ("train_samples", "test_samples")
USERS = ("train_user_features", "test_user_features")


def flat_clicks(case):
    case.set(SAMPLES, "label_0", lambda c: [v[1] for v in c.to_pylist()])


def follow_clicks(case, hint):
    assert "[1 - c, c]" in hint
    case.set(SAMPLES, "label_0", lambda x: [[1 - c, c] for c in x.to_pylist()])


def two_clicks(case):
    case.set(SAMPLES, "label_0", lambda c: [[v[1]] * 2 for v in c.to_pylist()])


def follow_two(case, hint):
    assert "[1 - c, c]" in hint
    case.set(
        SAMPLES, "label_0", lambda x: [[1 - c, c] for c, _ in x.to_pylist()]
    )


def follow_numbers(case, hint):
    (columns,) = re.search(
        r"each different value a number from 1 on, the same wherever .*"
        r"\((.*)\)",
        hint,
    ).groups()
    known = {}

    def number(value):
        return known.setdefault(value, len(known) + 1)

    each(columns.split(", "), number)(case)


def follow_hash(case, hint):
    field, columns = re.search(
        r"stable_ids\('(.*)', texts\), int64, .* \((.*)\)", hint
    ).groups()
    for column in columns.split(", "):
        for name, table in case.tables.items():
            if column not in table.column_names:
                continue
            kind = table.schema.field(column).type
            if pa.types.is_list(kind):
                case.set(
                    [name],
                    column,
                    lambda c: [stable_ids(field, v) for v in c.to_pylist()],
                )
            else:
                case.set(
                    [name], column, lambda c: stable_ids(field, c.to_pylist())
                )


def large_uint64(case):
    for names in (SAMPLES, USERS):
        case.set(names, "129_1", lambda c: np.asarray(c).astype(np.uint64))


def follow_view(case, hint):
    (columns,) = re.search(r"ids\.view\(np\.int64\).*\((.*)\)", hint).groups()
    for names in (SAMPLES, USERS):
        case.set(names, columns, lambda c: np.asarray(c).view(np.int64))


def rounded(case):
    case.set(SAMPLES, "129_1", lambda c: np.asarray(c).astype(np.float64))


def follow_source(case, hint):
    assert "as int64 from where the whole numbers come from" in hint
    for name in SAMPLES:
        case.tables[name] = case.good[name]


def numbered(case):
    """All items of the impressions are the first one of pd.factorize."""
    case.set(SAMPLES, "205", lambda c: [0] * len(c))
    case.set(("item_features",), "205", lambda c: list(range(len(c))))
    case.set(("scl_embedding_int8_p90",), "205", lambda c: range(len(c)))
    case.set(
        USERS,
        "150_2_180",
        lambda c: pa.array(
            [[0] * len(v) for v in c.to_pylist()], pa.list_(pa.int64())
        ),
    )


def follow_add(case, hint):
    assert "add 1 to them in every table and list" in hint
    case.set(SAMPLES, "205", lambda c: np.asarray(c) + 1)
    for name in ("item_features", "scl_embedding_int8_p90"):
        case.set([name], "205", lambda c: np.asarray(c) + 1)
    case.set(
        USERS,
        "150_2_180",
        lambda c: pa.array(
            [[i + 1 for i in v] for v in c.to_pylist()], pa.list_(pa.int64())
        ),
    )


VECTORS = np.random.default_rng(1).normal(size=(9, 128)) / 100


def zero_vectors(case):
    """What the cast of small floats to int8 makes."""
    case.set(
        ["scl_embedding_int8_p90"],
        "205_c",
        lambda c: pa.array(
            VECTORS.astype(np.int8).tolist(), pa.list_(pa.int8())
        ),
    )


def follow_floats(case, hint):
    assert "floats may be given as they are" in hint
    case.set(["scl_embedding_int8_p90"], "205_c", lambda c: VECTORS.tolist())


def text_vectors(case):
    case.set(
        ["scl_embedding_int8_p90"],
        "205_c",
        lambda c: [[str(x) for x in v] for v in VECTORS],
    )


def follow_codes(case, hint):
    (formula,) = re.search(r"Codes are (trunc\(.*\))\. Then", hint).groups()
    assert formula == "trunc(127 * v / |v|)"
    norms = np.linalg.norm(VECTORS, axis=1, keepdims=True)
    codes = np.trunc(127 * VECTORS / norms).astype(np.int8).tolist()
    case.set(
        ["scl_embedding_int8_p90"],
        "205_c",
        lambda c: pa.array(codes, pa.list_(pa.int8())),
    )


def no_vectors(case):
    del case.tables["scl_embedding_int8_p90"]


def follow_content(case, hint):
    assert "item_content.parquet with columns item_id and text" in hint
    ids = case.tables["item_features"]["205"]
    case.tables["item_content"] = pa.table(
        {"item_id": ids, "text": [f"thing {i}" for i in range(len(ids))]}
    )


def no_column(case):
    case.tables["item_features"] = case.tables["item_features"].drop(["213"])


def follow_column(case, hint):
    column, kind, name = re.search(
        r"write column (\S+) as (\S+) into (\S+), or name", hint
    ).groups()
    values = pa.array([0] * case.tables[name].num_rows, kind)
    case.tables[name] = case.tables[name].append_column(column, values)


def no_rows(case):
    case.tables["item_features"] = case.tables["item_features"].slice(0, 0)


def follow_rows(case, hint):
    assert "write item_features again with its rows" in hint
    case.tables["item_features"] = case.good["item_features"]


def unequal(case):
    case.set(USERS, "151_2_180", lambda c: [[1] * 9] * len(c))


def follow_unequal(case, hint):
    assert "one value of each feature per behavior, 0 where" in hint
    for name in USERS:
        lengths = [len(v) for v in case.tables[name]["150_2_180"].to_pylist()]
        case.set(
            [name],
            "151_2_180",
            lambda c, n=lengths: pa.array(
                [[0] * k for k in n], pa.list_(pa.int64())
            ),
        )


def no_labels(case):
    case.set(SAMPLES, "label_0", lambda c: pa.nulls(len(c)))


def other_users(case):
    case.set(SAMPLES, "129_1", lambda c: np.asarray(c) ^ np.int64(5))


def no_clicks(case):
    case.set(SAMPLES, "label_0", lambda c: [[1, 0]] * len(c))


def two_columns(case):
    items = case.tables["item_features"]
    case.tables["item_features"] = items.append_column("206", items["206"])


def follow_one(case, hint):
    assert "keep one column 206 in item_features" in hint
    items = case.tables["item_features"]
    case.tables["item_features"] = items.remove_column(items.num_columns - 1)


def delta_table(case):
    folder = case.folder / "item_features"
    (folder / "_delta_log").mkdir(parents=True)
    pq.write_table(case.tables.pop("item_features"), folder / "part-0.parquet")


def follow_new_folder(case, hint):
    assert "as Parquet into a new folder, and put it in the place of" in hint
    folder = case.folder / "item_features"
    new = case.folder.with_name("new")
    new.mkdir()
    pq.write_table(pq.read_table(folder / "part-0.parquet"), new / "a.parquet")
    shutil.rmtree(folder)
    new.rename(folder)


LONG = np.random.default_rng(2).normal(size=(9, 200))


def vectors(values):
    def spoil(case):
        add_searches(case)
        case.set(["scl_embedding_int8_p90"], "205_c", lambda c: values.tolist())

    return spoil


def follow_zeros(case, hint):
    assert "fill shorter ones up with zeros" in hint
    zeros = np.zeros((9, 64))
    padded = np.concatenate([VECTORS[:, :64], zeros], axis=1)
    vectors(padded)(case)


def follow_projection(case, hint):
    assert "project longer ones first" in hint
    onto = np.linalg.qr(np.random.default_rng(3).normal(size=(200, 128)))[0]
    vectors(LONG @ onto)(case)


def follow_content_vectors(case, hint):
    assert "if there is a table search_events" in hint
    assert "into item_content, as NAME_vector" in hint
    content = case.tables["item_content"]
    case.tables["item_content"] = content.append_column(
        "scl_vector", pa.array(LONG.tolist())
    )
    del case.tables["scl_embedding_int8_p90"]


CASES = {
    "0/1 clicks": (flat_clicks, "WRONG_TYPE", follow_clicks),
    "equal clicks": (two_clicks, "NO_USABLE_ROWS", follow_two),
    "text ids": (each(ITEM_IDS, "sku{}".format), "WRONG_TYPE", follow_hash),
    "uint64": (large_uint64, "WRONG_TYPE", follow_view),
    "rounded ids": (rounded, "WRONG_TYPE", follow_source),
    "factorized": (numbered, "NO_USABLE_ROWS", follow_add),
    "zero vectors": (zero_vectors, "NO_USABLE_ROWS", follow_floats),
    "text vectors": (text_vectors, "WRONG_TYPE", follow_codes),
    "no vectors": (no_vectors, "MISSING_TABLE", follow_content),
    "bytes as ids": (
        each(ITEM_IDS, lambda v: str(v).encode()),
        "WRONG_TYPE",
        follow_numbers,
    ),
    "flags as categories": (
        each(("206", "151_2_180"), lambda v: v > 4),
        "WRONG_TYPE",
        follow_numbers,
    ),
    "no labels": (no_labels, "NO_USABLE_ROWS", rewrite("fill in ids, labels")),
    "other users": (
        other_users,
        "NO_JOIN",
        rewrite("samples", "user_features (129_1)", "item_features (205)"),
    ),
    "no clicks": (no_clicks, "ONE_LABEL", rewrite("write clicked and other")),
    "two columns": (two_columns, "DUPLICATE_COLUMN", follow_one),
    "Delta Lake": (delta_table, "TABLE_FORMAT", follow_new_folder),
    "short vectors": (vectors(VECTORS[:, :64]), "NO_USABLE_ROWS", follow_zeros),
    "long vectors": (vectors(LONG), "NO_USABLE_ROWS", follow_projection),
    "own vectors": (vectors(LONG), "NO_USABLE_ROWS", follow_content_vectors),
    "no column": (no_column, "MISSING_COLUMN", follow_column),
    "no rows": (no_rows, "EMPTY_TABLE", follow_rows),
    "unequal lists": (unequal, "NO_USABLE_ROWS", follow_unequal),
}


@pytest.mark.parametrize("name", list(CASES))
def test_following_the_hint_mends_the_data(tmp_path, name):
    found = check(Case(tmp_path / "set"), *CASES[name])
    assert found["joins"] or name == "uint64"


def test_pandas_frames_are_read_as_they_are(tmp_path):
    """Nullable, narrow and float columns, clicks and vectors of pandas."""
    case = Case(tmp_path / "set")
    frame = case.tables["train_user_features"].to_pandas()
    frame["130_1"] = pandas.array([1, None, 3, 4, 5, 6], dtype="Int64")
    frame["130_2"] = [1.0, float("nan"), 3.0, 4.0, 5.0, 6.0]
    frame["130_3"] = frame["130_3"].astype("int8")
    case.tables["train_user_features"] = pa.Table.from_pandas(frame)
    found = case.inspect()
    assert found["ok"] and found["joins"]
    assert case.read("train_user_features", "130_1")[1] is None
    assert case.read("train_user_features", "130_2") == [1, None, 3, 4, 5, 6]
    assert found["users"]["train"]["accepted"] == 6
    assert found["users"]["train"]["missing_values"]["user_profile_2"] > 0
