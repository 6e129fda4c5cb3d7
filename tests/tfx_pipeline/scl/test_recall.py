"""Recall against a search that sorts everything."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfx_pipeline.scl import evaluation, recall


def unit(rng, *shape):
    values = rng.normal(size=shape)
    values /= np.linalg.norm(values, axis=-1, keepdims=True)
    return values.astype("float32")


def place(query, true, items, allowed):
    """How many others are as near or nearer, one by one."""
    if true < 0 or not items[true].any() or not query.any():
        return recall.MISSED
    score = query.astype("float64") @ items[true]
    return sum(
        query.astype("float64") @ item >= score - 1e-7
        for row, item in enumerate(items)
        if row != true and item.any() and allowed(row)
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_ranks(seed, block):
    rng = np.random.default_rng(seed)
    items, queries = unit(rng, 30, 4), unit(rng, 9, 4)
    items[[4, 11]] = items[20]  # Ties.
    items[7] = queries[0] = 0.0
    true = rng.integers(-1, 30, 9)
    true[1], true[2] = 20, 7
    groups = rng.integers(0, 3, 30)
    found = recall.ranks(queries, true, items, groups, block)
    for number, (query, row) in enumerate(zip(queries, true, strict=True)):
        overall = place(query, row, items, lambda other: True)
        same = place(
            query,
            row,
            items,
            lambda other, row=row: groups[other] == groups[row],
        )
        assert found["all"][number] == overall
        assert found["same_category"][number] == same


def recall_at(queries, true, items, k):
    found = recall.ranks(queries, true, items)
    return recall.recall_of_ranks(found["all"], k)


def test_equal_vectors_for_everything_earn_nothing():
    items = np.tile(unit(np.random.default_rng(0), 1, 64), (300, 1))
    assert recall_at(items[:20], np.arange(20), items, 100) == 0.0
    assert recall_at(items[:2], [0, 1], items, 300) == 1.0


def test_the_interval_covers_the_recall():
    values = np.random.default_rng(1).integers(0, 100, 4000)
    found = evaluation._with_interval(values, 30)
    assert found["lower"] < found["value"] < found["upper"]
    # 1.96 standard errors on either side.
    deviation = np.sqrt(found["value"] * (1 - found["value"]) / 4000)
    assert found["upper"] - found["lower"] == pytest.approx(
        2 * 1.96 * deviation, rel=0.2
    )


def test_no_queries():
    items = unit(np.random.default_rng(2), 3, 4)
    found = recall.ranks(items[:0], [], items, [1, 1, 2])
    for ranks in found.values():
        assert np.isnan([*evaluation._with_interval(ranks, 1).values()]).all()


def test_arrays_that_do_not_fit_are_named():
    items = unit(np.random.default_rng(3), 3, 4)
    with pytest.raises(ValueError, match="`query_vectors` must have a row"):
        recall.ranks(items, [0], items)
    with pytest.raises(ValueError, match="`true_items` must be rows"):
        recall.ranks(items[:1], [3], items)
    with pytest.raises(ValueError, match="`groups` must have an entry"):
        recall.ranks(items[:1], [0], items, groups=[1])
