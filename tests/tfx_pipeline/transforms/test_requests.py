"""Grouping of one partition's rows, without Beam."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from schemas.ranking_schema import preset
from tests.tfx_pipeline.transforms.join_oracle import (
    NAMES,
    SCHEMAS,
    sample_row,
    user_row,
)
from tfx_pipeline.transforms import requests


def batch_of(rows, kind, **columns):
    schema = pa.schema(list(SCHEMAS[kind].items()))
    batch = pa.RecordBatch.from_pylist(rows, schema)
    return pa.RecordBatch.from_arrays(
        [*batch.columns, *(pa.array(v) for v in columns.values())],
        names=[*map(NAMES.get, batch.schema.names), *columns],
    )


def build(samples, users, user_rows, max_candidates=3):
    columns = dict.fromkeys(("item_category", "popularity"), [1] * len(samples))
    batches = list(
        requests.build_requests(
            batch_of(
                samples, "samples", position=range(len(samples)), **columns
            ),
            batch_of(users, "user_features"),
            np.array(user_rows),
            max_candidates,
            preset("taobao_mm"),
        )
    )
    rows = [row for batch in batches for row in batch.to_pylist()]
    return [batch.num_rows for batch in batches], rows


def test_batches_are_bounded_by_the_longest_history(monkeypatch):
    monkeypatch.setattr(requests, "_BATCH_BEHAVIORS", 10)
    users = [user_row(n, range(n % 5), range(n % 5)) for n in range(1, 12)]
    samples = [
        sample_row(n, 100 * n + m) for n in range(1, 12) for m in range(4)
    ]
    rows = np.repeat(np.arange(11), 4)
    sizes, found = build(samples, users, rows)
    assert sizes == [2] * 11
    assert sum(sizes) == len(found) == 22
    for row in found:
        (user,) = row["user_id"]
        assert row["behavior_item_ids"] == list(range(user % 5))
        assert all(n // 100 == user for n in row["candidate_item_ids"])
        assert row["candidate_category"] == [1] * len(row["clicks"])
    # One history is always allowed, however long it is.
    users = [user_row(1, range(50), range(50)), user_row(2)]
    sizes, found = build(samples[:2], users, [0, 1])
    assert sizes == [1, 1]


def test_order_depends_on_the_users_alone():
    users = [user_row(n, [n], [n]) for n in range(1, 20)]
    samples = [sample_row(n, n) for n in range(1, 20)]
    _, expected = build(samples, users, range(19))
    order = np.random.default_rng(1).permutation(19)
    _, found = build(samples, [users[n] for n in order], np.argsort(order))
    assert found == expected
    assert [row["user_id"] for row in found] != [[n] for n in range(1, 20)]


def test_first_rows_of_a_key():
    batch = pa.RecordBatch.from_pydict(
        {"id": [5, 5, 4, 5, 4], "position": [3, 1, 0, 2, 9]}
    )
    found = requests.is_first(batch, "id")
    assert found.tolist() == [False, True, True, False, False]
    assert requests.is_first(batch.slice(0, 0), "id").tolist() == []


def test_rows_of_ids():
    batch = pa.RecordBatch.from_pydict({"id": [5, -3, 9]})
    wanted = np.array([9, 0, -3, 5, 2**62])
    assert requests.rows_of(batch, "id", wanted).tolist() == [2, -1, 1, 0, -1]
    assert requests.rows_of(None, "id", wanted).tolist() == [-1] * 5
    empty = batch.slice(0, 0)
    assert requests.rows_of(empty, "id", wanted).tolist() == [-1] * 5


def test_popularity_counts_train_only():
    samples = pa.RecordBatch.from_pydict(
        {
            "item_id": [7, 8, 7, 7, 9],
            "split": ["train", "eval", "eval", "train", "train"],
        }
    )
    assert requests.popularity(samples, "train").tolist() == [2, 0, 2, 2, 1]
