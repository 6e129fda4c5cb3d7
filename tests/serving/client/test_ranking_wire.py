"""Requests, events and answers of the ranking service as messages."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from serving.client import RankingRequest, RankingResult, RequestError
from serving.client.declaration import Declaration
from serving.client.ranking_types import AppendEvents
from serving.client.ranking_wire import (
    read_events,
    read_rank,
    read_request,
    read_values,
    write_events,
    write_rank,
    write_request,
    write_values,
)
from serving.wire import ranking_messages as wire
from tests.serving.kinds_schema import SCHEMA

numbers = st.integers(-(2**63), 2**63 - 1) | st.none()
floats = st.floats(width=32, allow_infinity=False) | st.none()
texts = st.text(st.characters(codec="utf-8"), min_size=1) | st.none()
singles = st.one_of(
    *(st.lists(kind, max_size=4) for kind in (numbers, floats, texts))
)
lists = st.one_of(
    *(
        st.lists(st.lists(kind, max_size=3) | st.none(), max_size=4)
        for kind in (
            st.integers(-(2**63), 2**63 - 1),
            st.floats(width=32, allow_infinity=False),
            st.text(st.characters(codec="utf-8"), min_size=1),
        )
    )
)


def plain(values):
    """What stands for one thing, NaN and nothing as None, lists as lists."""
    found = []
    for value in values:
        if value is None or (np.ndim(value) == 0 and value != value):
            found.append(None)
        elif np.ndim(value):
            items = [None if one != one else one for one in np.ravel(value)]
            found.append(items or None)
        else:
            found.append(value)
    return found


@hypothesis.given(singles | lists)
def test_values_of_things_survive(values):
    count = len(values)
    request = RankingRequest(
        1, list(range(1, count + 1)) or None, candidates={"f": values}
    )
    given = request.candidates["f"]
    message = wire.Values.FromString(
        write_values("f", given).SerializeToString()
    )
    found = read_values("f", message)
    assert plain(found) == plain(given)


@pytest.mark.parametrize(
    "fields",
    [
        {"user_id": 7},
        {"user_id": "u-1", "candidate_item_ids": ["a", "b"]},
        {
            "user_id": -(2**63),
            "candidate_item_ids": [2**63 - 1, -5, 3],
            "deadline_ms": 20.0,
            "sort": True,
            "top": 2,
            "request_id": "é",
            "user": {
                "age": 3,
                "income": 1200.5,
                "country": "DE",
                "city": None,
                "interests": [1, 2],
                "one": [1],
                "none": [],
                "taste": [0.5, 1.5],
                "words": ["a", "b"],
            },
            "context": {"device": "phone", "load": 0.25},
            "candidates": {
                "price": [1.5, None, 2.0],
                "shelf": [1, 2, 3],
                "badge": ["new", None, "sale"],
                "tags": [[1], [], [2, 3]],
                "look": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]],
                "labels": [["x"], None, ["y", "z"]],
            },
        },
    ],
)
def test_requests_survive(fields):
    request = RankingRequest(**fields)
    raw = write_request(request).SerializeToString()
    deadline = request.deadline_ms
    found = read_request(wire.RankRequest.FromString(raw), deadline)
    for name, value in vars(request).items():
        got = getattr(found, name)
        if name in ("user", "context"):
            assert set(got) == set(value)
            for key in value:
                assert plain([got[key]]) == plain([value[key]]), key
                assert np.ndim(got[key]) == np.ndim(value[key]), key
        elif name == "candidates":
            assert set(got) == set(value)
            for key in value:
                assert plain(got[key]) == plain(value[key]), key
        elif isinstance(value, np.ndarray):
            assert got.tolist() == value.tolist()
            assert got.dtype == value.dtype
        else:
            assert got == value, name


def test_events_survive():
    events = AppendEvents(
        "u",
        ["a", "b"],
        {"dwell": [1.5, None], "action": ["click", "order"]},
        {"age": 3},
        [1_700_000_000, 1_700_000_001],
    )
    raw = write_events(events).SerializeToString()
    found = read_events(wire.AppendEventsRequest.FromString(raw))
    assert (found.user_id, found.item_ids.tolist()) == ("u", ["a", "b"])
    assert plain(found.behaviors["dwell"]) == [1.5, None]
    assert found.behaviors["action"].tolist() == ["click", "order"]
    assert found.user == {"age": 3}
    assert found.times.tolist() == [1_700_000_000, 1_700_000_001]
    raw = write_events(AppendEvents(5, [6])).SerializeToString()
    found = read_events(wire.AppendEventsRequest.FromString(raw))
    assert (found.user_id, found.item_ids.tolist()) == (5, [6])
    assert found.times is None


@pytest.mark.parametrize("ids", [["a", "b"], [3, 2**63 - 1]])
def test_answers_survive_and_are_ordered_by_every_label(ids):
    items = RankingRequest(1, ids).candidate_item_ids
    click = np.array([0.25, 0.5], np.float32)
    order = np.array([0.125, 0.0625], np.float32)
    result = RankingResult(items, click, "full", probabilities={"order": order})
    best = result.at(result.order())
    found = read_rank(
        wire.RankResponse.FromString(write_rank(best).SerializeToString())
    )
    assert found.candidate_item_ids.tolist() == ids[::-1]
    assert found.click_probability.tolist() == [0.5, 0.25]
    assert {k: v.tolist() for k, v in found.probabilities.items()} == {
        "click": [0.5, 0.25],
        "order": [0.0625, 0.125],
    }
    unranked = RankingResult(items, np.zeros(0, np.float32), "unranked")
    one = unranked.at(unranked.order()[:1])
    assert one.candidate_item_ids.tolist() == ids[:1]
    assert read_rank(write_rank(one)).path == "unranked"


@pytest.mark.parametrize(
    "message",
    [
        {"ids": [1], "numbers": [1.0]},
        {"ids": [1, 2], "lengths": [1]},
        {"ids": [1], "lengths": [-1, 2]},
        {"ids": [1, 2], "lengths": [2]},
    ],
)
def test_values_that_do_not_fit_are_refused_by_name(message):
    request = wire.RankRequest(user_id=1, candidate_item_ids=[1, 2])
    request.candidates["shelf"].CopyFrom(wire.Values(**message))
    with pytest.raises(
        RequestError, match=r"`candidates\['shelf'\]` must (have|set)"
    ):
        read_request(request, 0)
    several = wire.RankRequest(user_id=1)
    several.user["age"].CopyFrom(wire.Values(ids=[1, 2]))
    with pytest.raises(RequestError, match=r"`user\['age'\]` must be of one"):
        read_request(several, 0)


def test_numbers_and_texts_do_not_mix():
    mixed = RankingRequest(1, [2, 3], candidates={"badge": ["new", 1]})
    with pytest.raises(RequestError, match="all numbers or all texts"):
        write_request(mixed)


def test_keys_become_numbers():
    from schemas.hashing import stable_id

    request = RankingRequest("12", ["a"]).with_numbers(Declaration(SCHEMA))
    assert request.user_id == 12
    assert request.candidate_item_ids.tolist() == [stable_id("item_id", "a")]
    with pytest.raises(RequestError, match="`user_id` must be a whole number"):
        RankingRequest("u").with_numbers(Declaration())
