import collections

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muse_tools.datasets import raw_tables, validation
from schemas.ranking_schema import preset

SCHEMAS = raw_tables.schemas(preset("taobao_mm"))
PLAIN = raw_tables.schemas(preset("complete_journey"))
INT64 = st.one_of(
    st.sampled_from([0, 1, -1, 2**63 - 1, -(2**63)]),
    st.integers(-(2**63), 2**63 - 1),
)
MAYBE_ID = st.one_of(st.none(), INT64)
LABEL = st.one_of(
    st.none(),
    st.sampled_from([[0, 1], [1, 0], [1, 1], [0, 0], [-1, 2]]),
    st.lists(
        st.one_of(st.none(), st.integers(-128, 127), st.integers(0, 1)),
        max_size=3,
    ),
)
IDS = st.one_of(st.none(), st.lists(st.one_of(st.none(), INT64), max_size=4))


def batch_of(rows, schema):
    columns = list(zip(*rows, strict=True)) or [[] for _ in schema]
    return pa.RecordBatch.from_arrays(
        [
            pa.array(list(c), f.type)
            for c, f in zip(columns, schema, strict=True)
        ],
        schema=schema,
    )


def has_null(values):
    return any(v is None or (isinstance(v, list) and None in v) for v in values)


def sample_reason(label, user, item):
    if has_null([label, user, item]):
        return validation.NULL
    if user == 0 or item == 0:
        return validation.MISSING_ID
    return None if label in ([0, 1], [1, 0]) else validation.LABEL_NOT_ONE_HOT


def user_reason(user, *rest):
    if has_null([user, *rest[-2:]]):
        return validation.NULL
    if user == 0:
        return validation.MISSING_ID
    equal = len(rest[-1]) == len(rest[-2])
    return None if equal else validation.UNEQUAL_LISTS


def item_reason(item, *rest):
    if item is None:
        return validation.NULL
    return validation.MISSING_ID if item == 0 else None


def vector_reason(item, vector):
    if has_null([item, vector]):
        return validation.NULL
    if item == 0:
        return validation.MISSING_ID
    if len(vector) != 128:
        return validation.EMBEDDING_LENGTH
    return None if any(vector) else validation.ZERO_VECTOR


def check(table, rows, reason_of, cut, schemas=SCHEMAS):
    """Compares with the rules applied row by row, also on a slice."""
    batch = batch_of(rows, schemas[table])
    rows, batch = rows[cut:], batch.slice(cut)
    found = validation.validate(table, batch)
    reasons = [reason_of(*row) for row in rows]
    # What is left of nulls are features that are missing.
    good = [
        [0 if v is None else v for v in r]
        for r, why in zip(rows, reasons, strict=True)
        if not why
    ]
    bad = [[*r, why] for r, why in zip(rows, reasons, strict=True) if why]
    assert [list(r.values()) for r in found.good.to_pylist()] == good
    assert [list(r.values()) for r in found.rejected.to_pylist()] == bad
    assert found.counts == collections.Counter(r[-1] for r in bad)
    assert found.good.num_rows + sum(found.counts.values()) == len(rows)
    assert found.rejected.schema.names == [*batch.schema.names, "reason"]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(LABEL, MAYBE_ID, MAYBE_ID), max_size=8), st.data())
def test_samples_like_row_by_row(rows, data):
    cut = data.draw(st.integers(0, len(rows)))
    check("train_samples", rows, sample_reason, cut)


def plain_reason(label, user, item):
    if has_null([label, user, item]):
        return validation.NULL
    if user == 0 or item == 0:
        return validation.MISSING_ID
    return None if label in (0, 1) else validation.LABEL_NOT_BINARY


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(*[MAYBE_ID] * 3), max_size=8), st.data())
def test_samples_with_plain_labels_like_row_by_row(rows, data):
    cut = data.draw(st.integers(0, len(rows)))
    check("train_samples", rows, plain_reason, cut, PLAIN)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(MAYBE_ID, *[MAYBE_ID] * 5, IDS, IDS), max_size=6),
    st.data(),
)
def test_users_like_row_by_row(rows, data):
    cut = data.draw(st.integers(0, len(rows)))
    check("test_user_features", rows, user_reason, cut)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[MAYBE_ID] * 4), max_size=6), st.data())
def test_items_like_row_by_row(rows, data):
    cut = data.draw(st.integers(0, len(rows)))
    check("item_features", rows, item_reason, cut)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            MAYBE_ID,
            st.sampled_from(
                [
                    None,
                    [],
                    [1] * 127,
                    [-128] * 128,
                    [0] * 129,
                    [None] * 128,
                    [0] * 128,
                    [0] * 127 + [1],
                    [0] * 127 + [None],
                ]
            ),
        ),
        max_size=6,
    ),
    st.data(),
)
def test_vectors_like_row_by_row(rows, data):
    cut = data.draw(st.integers(0, len(rows)))
    check("scl_embedding_int8_p90", rows, vector_reason, cut)


def test_label_values_do_not_overflow():
    # 127 + 2 wraps to -127 in int8, and 129 - 128 would look like 1.
    schema = SCHEMAS["train_samples"]
    labels = [[127, -126], [-127, -128], [2, -1], [1, 1], [0, 1], [0, 0]]
    batch = batch_of([(label, 1, 1) for label in labels], schema)
    found = validation.validate("train_samples", batch)
    assert found.good.column(0).to_pylist() == [[0, 1]]


def test_extra_columns_stay_and_absent_ones_are_not_checked():
    batch = pa.RecordBatch.from_arrays(
        [pa.array([5, 0, None]), pa.array(["a", "b", "c"])],
        names=["item_id", "split"],
    )
    found = validation.validate("embeddings", batch)
    assert found.good.to_pylist() == [{"item_id": 5, "split": "a"}]
    assert found.rejected.column(1).to_pylist() == ["b", "c"]
    assert found.counts == {validation.MISSING_ID: 1, validation.NULL: 1}


def test_unknown_table_is_a_value_error():
    with pytest.raises(ValueError, match="table: expected one of"):
        validation.validate("samplez", pa.RecordBatch.from_arrays([], []))


def test_clicks():
    schema = SCHEMAS["train_samples"]
    batch = batch_of([([1, 0], 1, 1), ([0, 1], 1, 2), ([0, 1], 1, 3)], schema)
    np.testing.assert_array_equal(validation.clicks(batch.slice(1)), [1, 1])
    rows = [(0, 1, 1), (1, 1, 2), (0, 1, 3)]
    batch = batch_of(rows, PLAIN["test_samples"])
    found = validation.clicks(batch.slice(1))
    np.testing.assert_array_equal(found, [1, 0])
    assert found.dtype == np.int8


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(-2, 2), INT64), max_size=6), max_size=5
    ),
    st.data(),
)
def test_strip_padding_keeps_pairs_in_order(users, data):
    cut = data.draw(st.integers(0, len(users)))
    schema = SCHEMAS["train_user_features"]
    rows = [
        (i + 1, *[0] * 5, [a for a, _ in pairs], [b for _, b in pairs])
        for i, pairs in enumerate(users)
    ]
    batch = batch_of(rows, schema).slice(cut)
    found = validation.strip_padding(batch)
    kept = [[(a, b) for a, b in pairs if a] for pairs in users[cut:]]
    assert found.column(6).to_pylist() == [[a for a, _ in p] for p in kept]
    assert found.column(7).to_pylist() == [[b for _, b in p] for p in kept]
    assert found.column(0).to_pylist() == list(range(cut + 1, len(users) + 1))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(-6, 6), max_size=8), max_size=12))
def test_unique_keys_keep_the_first_row_of_all_batches(batches):
    unique = validation.UniqueKeys("item_id", validation.DUPLICATE_ITEM)
    seen: set[int] = set()
    for ids in batches:
        batch = pa.RecordBatch.from_arrays(
            [pa.array(ids, pa.int64()), pa.array(range(len(ids)), pa.int64())],
            names=["item_id", "position"],
        )
        first = []
        for position, key in enumerate(ids):
            if key not in seen:
                seen.add(key)
                first.append(position)
        found = unique.check(batch)
        assert found.good.column(1).to_pylist() == first
        assert sum(found.counts.values()) == len(ids) - len(first)
        assert set(found.counts) <= {validation.DUPLICATE_ITEM}
    assert len(unique) == len(seen)
    assert unique.keys().tolist() == sorted(seen)


def test_items_without_features_are_rejected():
    batch = pa.RecordBatch.from_arrays(
        [pa.array([3, -(2**63), 9, 2**63 - 1])], names=["item_id"]
    )
    known = np.array([-(2**63), 3, 4], np.int64)
    found = validation.require_keys(
        batch, "item_id", known, validation.NO_ITEM_FEATURES
    )
    assert found.good.column(0).to_pylist() == [3, -(2**63)]
    assert found.counts == {validation.NO_ITEM_FEATURES: 2}
    none = validation.require_keys(
        batch, "item_id", known[:0], validation.NO_ITEM_FEATURES
    )
    assert none.good.num_rows == 0
