"""Requests and answers of the user cache, without a server."""

from __future__ import annotations

import numpy as np
import pytest

from serving.client import (
    CachedRankRequest,
    Limits,
    ModelMetadata,
    MuseClient,
    PrefetchRequest,
    RequestError,
    ResponseError,
)
from serving.client.calls import GetMetadata

USER = {"age": 4}


class Recording:
    """A transport that keeps what it is asked and answers by a function."""

    def __init__(self, answer) -> None:
        self.answer = answer
        self.calls: list[tuple[str, dict]] = []

    def send(self, call, seconds):
        if isinstance(call, GetMetadata):
            return ModelMetadata("muse", 1, {})
        self.calls.append((call.signature, dict(call.inputs)))
        return self.answer(call.signature, call.inputs)

    def close(self) -> None:
        pass


def prefetched(signature, inputs):
    users = inputs["user_id"]
    return {
        "cached_length": (users % 3).astype(np.int32),
        "generation": users * 10,
    }


def by_ids(user: int, length: int) -> PrefetchRequest:
    items = np.arange(1, length + 1)
    return PrefetchRequest(user, items, USER, {"brand": items + 100})


def by_rows(user: int, length: int) -> PrefetchRequest:
    rows = np.arange(length)
    return PrefetchRequest(
        user,
        user=USER,
        behaviors={"brand": rows + 100},
        behavior_rows=rows,
        table_stamp=77,
    )


def test_prefetch_by_ids_and_rows_goes_apart_and_comes_back_in_order():
    transport = Recording(prefetched)
    client = MuseClient("t", transport)
    found = client.prefetch(
        [by_ids(1, 4), by_rows(2, 1), by_ids(3, 0), by_rows(0, 3)]
    )
    assert [result.generation for result in found] == [10, 20, 30, 0]
    assert [result.cached_length for result in found] == [1, 2, 0, 0]
    assert [result.cached for result in found] == [True, True, True, False]
    (ids, by_id), (rows, by_row) = transport.calls
    assert (ids, rows) == ("prefetch", "prefetch_rows")
    assert by_id["user_id"].tolist() == [3, 1]
    assert by_id["behavior_item_ids"].tolist() == [[0, 0, 0, 0], [1, 2, 3, 4]]
    assert by_id["user_age"].tolist() == [4, 4]
    assert by_row["behavior_rows"].tolist() == [[0, -1, -1], [0, 1, 2]]
    assert by_row["behavior_rows"].dtype == np.int32
    assert by_row["behavior_brand"].tolist() == [
        [100, 0, 0],
        [100, 101, 102],
    ]
    assert by_row["table_stamp"].tolist() == [77, 77]


def test_rows_may_be_padding_but_nothing_below():
    request = PrefetchRequest(1, behavior_rows=[-1, 3], table_stamp=9)
    assert request.behavior_rows.tolist() == [-1, 3]
    with pytest.raises(RequestError, match="-1 for padding"):
        PrefetchRequest(1, behavior_rows=[-2, 3], table_stamp=9)


def test_an_empty_history_by_rows_is_all_padding():
    transport = Recording(prefetched)
    MuseClient("t", transport).prefetch(by_rows(1, 0))
    assert transport.calls[0][1]["behavior_rows"].tolist() == [[-1]]


def test_limits_split_prefetches():
    transport = Recording(prefetched)
    client = MuseClient("t", transport, limits=Limits(requests=2))
    found = client.prefetch([by_ids(user, user) for user in range(1, 6)])
    assert [result.generation for result in found] == [10, 20, 30, 40, 50]
    assert len(transport.calls) == 3


def test_rank_cached():
    def answer(signature, inputs):
        assert signature == "rank_cached"
        hit = inputs["user_id"] > 0
        return {
            "click_probability": inputs["candidate_item_ids"]
            / 100
            * hit[:, None],
            "cache_hit": hit,
            "generation": np.where(hit, inputs["user_id"] + 5, 0),
        }

    client = MuseClient("t", Recording(answer))
    hit, miss = client.rank_cached(
        [CachedRankRequest(4, [7, 8, 9]), CachedRankRequest(-4, [7])]
    )
    assert (hit.cache_hit, hit.generation) == (True, 9)
    assert hit.click_probability.tolist() == [0.07, 0.08, 0.09]
    assert hit.order().tolist() == [2, 1, 0]
    assert (miss.cache_hit, miss.generation) == (False, 0)
    assert miss.click_probability.tolist() == [0.0]
    assert miss.candidate_item_ids.tolist() == [7]


def test_statistics():
    counts = {
        name: np.full(2, number)
        for number, name in enumerate(
            "capacity occupied max_length bytes hits misses prefetches "
            "evictions expired mixed".split()
        )
    }
    users = {
        "cached_length": np.array([3, -1], np.int32),
        "generation": np.array([9, 0]),
        "age_seconds": np.array([1.5, 0], np.float32),
    }
    client = MuseClient("t", Recording(lambda *_: {**users, **counts}))
    found = client.user_cache([5, 6])
    assert found.cached_length.tolist() == [3, -1]
    assert (found.capacity, found.mixed, found.hits) == (0, 9, 4)
    missing = Recording(lambda *_: users)
    with pytest.raises(ResponseError, match="'capacity'"):
        MuseClient("t", missing).user_cache([5, 6])


def test_rows_of_two_tables_are_refused():
    stamps = [1, 1, 1]

    def answer(signature, inputs):
        ids = inputs["item_ids"]
        return {
            "row": (ids * 2).astype(np.int32),
            "table_stamp": np.full(len(ids), stamps.pop()),
        }

    client = MuseClient("t", Recording(answer), limits=Limits(ids=2))
    found = client.resolve_items([1, 2, 3, 4, 5])
    assert found.rows.tolist() == [2, 4, 6, 8, 10]
    assert found.table_stamp == 1
    stamps[:] = [2, 1, 1]
    with pytest.raises(ResponseError, match="swapped"):
        client.resolve_items([1, 2, 3, 4, 5])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"user_id": 1.5}, "user_id"),
        ({"user": {"age": b"x"}}, "user['age']"),
        (
            {
                "behavior_item_ids": None,
                "behavior_rows": ["1", "2"],
                "table_stamp": 1,
            },
            "behavior_rows",
        ),
        ({"behavior_item_ids": None}, "behavior_rows"),
        ({"behavior_rows": [1, 2], "table_stamp": 1}, "behavior_rows"),
        ({"table_stamp": 1}, "table_stamp"),
        ({"behaviors": {"brand": [1]}}, "behaviors['brand']"),
        (
            {"behavior_item_ids": None, "behavior_rows": [1, 2]},
            "table_stamp",
        ),
        (
            {
                "behavior_item_ids": None,
                "behavior_rows": [1, -2],
                "table_stamp": 1,
            },
            "behavior_rows",
        ),
        (
            {
                "behavior_item_ids": None,
                "behavior_rows": [1, 2**31],
                "table_stamp": 1,
            },
            "behavior_rows",
        ),
    ],
)
def test_wrong_fields_are_named(change, field):
    fields = {
        "user_id": 1,
        "behavior_item_ids": [1, 2],
        "user": USER,
        "behaviors": {"brand": [1, 2]},
    }
    with pytest.raises(RequestError) as caught:
        PrefetchRequest(**{**fields, **change})
    assert caught.value.field == field


def test_candidates_are_checked():
    with pytest.raises(RequestError, match="`candidate_item_ids` must"):
        CachedRankRequest(1, [])
    with pytest.raises(RequestError, match="0 at position 1"):
        CachedRankRequest(1, [3, 0])


@pytest.mark.parametrize(
    "outputs",
    [
        {"cached_length": np.zeros(1)},
        {"cached_length": np.zeros(0), "generation": np.zeros(0)},
        {"cached_length": np.zeros((1, 1)), "generation": np.zeros(1)},
    ],
)
def test_strange_answers(outputs):
    with pytest.raises(ResponseError):
        MuseClient("t", Recording(lambda *_: outputs)).prefetch(by_ids(1, 2))
