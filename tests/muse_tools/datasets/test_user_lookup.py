"""One rule for a user's row: `muse rank --user`, the store, the oracle."""

import pathlib
import tempfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muse_tools.datasets import user_lookup
from muse_tools.datasets.errors import DataError
from muse_tools.stores import user_store
from serving.stores import open_store
from tests.tfx_pipeline.transforms import join_oracle as oracle
from tests.tfx_pipeline.transforms.join_oracle import user_row

TABLE = "test_user_features"
NEAR = [2**60 + 1, 2**60 + 2, -(2**60) - 1, 2**62 + 5]


def first_good_rows(rows):
    """The users that the join would use, and why it rejects the others."""
    users = {}
    reasons = []
    for row in rows:
        problem = oracle.user_problem(row, users)
        if problem:
            reasons.append(problem)
        else:
            users[row["129_1"]] = oracle.missing_to_zero(row)
    return users, reasons


def check(folder, rows, rows_per_group=2):
    oracle.write(folder, {TABLE: rows}, rows_per_group)
    users, reasons = first_good_rows(rows)
    users_of = user_store.Users.find(folder)
    layout = users_of.layout
    with open_store(f"lmdb:{folder}/store", layout) as store:
        report = user_store.load_table(store, users_of)
        assert report.users == len(users)
        assert sum(report.rejected.values()) == len(reasons)
        assert report.rejected.get("duplicate user row", 0) == reasons.count(
            "duplicate user row"
        )
        for user, row in users.items():
            found = user_lookup.find_user(folder, user)
            stored = store.read(user)
            profile = {
                f"profile_{i}": row[code]
                for i, code in enumerate(oracle.PROFILE, 1)
            }
            assert found["user"] == profile
            assert stored.user == profile
            assert found["behavior_item_ids"].tolist() == row[oracle.IDS]
            assert {k: v.tolist() for k, v in found["behaviors"].items()} == {
                "category": row[oracle.CATEGORIES]
            }
            behaviors = zip(
                row[oracle.IDS], row[oracle.CATEGORIES], strict=True
            )
            kept = [(item, kind) for item, kind in behaviors if item]
            assert stored.item_ids.tolist() == [item for item, _ in kept]
            assert stored.behaviors["category"].tolist() == [k for _, k in kept]
    for row in rows:
        if row["129_1"] and row["129_1"] not in users:
            with pytest.raises(DataError, match="no usable row") as error:
                user_lookup.find_user(folder, row["129_1"])
            assert error.value.code == "REJECTED_USER"


def test_ids_beside_a_null_are_exact(tmp_path):
    """A null made the ids of a row group floats: 2**60 + 1 == 2**60 + 2."""
    rows = [user_row(None)]
    rows += [user_row(user, [i], [1]) for i, user in enumerate(NEAR, 10)]
    check(tmp_path, rows, rows_per_group=len(rows))
    with pytest.raises(DataError, match="no user 1152921504606846979"):
        user_lookup.find_user(tmp_path, 2**60 + 3)


def test_the_first_good_row_counts_everywhere(tmp_path):
    rows = [
        user_row(7, [1, 2], [1]),
        user_row(7, [3, 0], [1, 0], (None, 2, 3, 4, None)),
        user_row(8, [9], [9]),
        user_row(7, [4], [1]),
        user_row(8, [1], [1]),
        user_row(9, [None], [1]),
        user_row(0, [1], [1]),
    ]
    check(tmp_path, rows)


IDS = st.sampled_from([*NEAR, 0, None, 3])
LISTS = st.lists(st.one_of(st.none(), st.integers(0, 5)), max_size=3)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.builds(
            user_row,
            IDS,
            st.one_of(st.none(), LISTS, st.just([1, 2])),
            st.one_of(st.just([1, 2]), LISTS),
            st.tuples(*[st.one_of(st.none(), st.integers(-2, 2))] * 5),
        ),
        min_size=1,
        max_size=9,
    )
)
def test_one_rule_for_all(rows):
    with tempfile.TemporaryDirectory() as folder:
        check(pathlib.Path(folder), rows)


@pytest.mark.parametrize("kind", ["uint64", "float64", "decimal128", "int32"])
def test_ids_of_other_types_are_found(tmp_path, kind):
    users = [3, None, 70_001, 2**31 - 1]
    of_kind = pa.decimal128(20) if kind == "decimal128" else getattr(pa, kind)()
    oracle.write(tmp_path, {TABLE: [user_row(u, [1], [1]) for u in users]}, 2)
    path = tmp_path / f"{TABLE}.parquet"
    table = pq.read_table(path)
    table = table.set_column(0, "129_1", table["129_1"].cast(of_kind))
    pq.write_table(table, path, row_group_size=2)
    for user in (3, 70_001, 2**31 - 1):
        found = user_lookup.find_user(tmp_path, user)
        assert np.array_equal(found["behavior_item_ids"], [1])
    with pytest.raises(DataError, match="no user 4"):
        user_lookup.find_user(tmp_path, 4)
