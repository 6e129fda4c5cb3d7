"""Requests are checked where they are made, and named when wrong."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from serving.client import Limits, RankRequest, RequestError
from serving.client.batches import RANK, rank_inputs

GOOD = {
    "user_id": 1,
    "user_profile": [1, 2, 3, 4, 5],
    "behavior_item_ids": [7, 0, 8],
    "behavior_category_ids": [1, 0, 1],
    "candidate_item_ids": [9, -9],
}


def test_lists_become_int64():
    request = RankRequest(**GOOD)
    assert request.behavior_item_ids.dtype == np.int64
    assert RankRequest(
        **{**GOOD, "behavior_item_ids": [], "behavior_category_ids": []}
    ).behavior_item_ids.shape == (0,)
    edges = [-(2**63), 2**63 - 1]
    assert (
        RankRequest(
            **{**GOOD, "candidate_item_ids": edges}
        ).candidate_item_ids.tolist()
        == edges
    )


@pytest.mark.parametrize(
    ("field", "value", "part"),
    [
        ("user_id", 1.5, "be a whole number"),
        ("user_id", True, "be a whole number"),
        ("user_id", "7", "be a whole number"),
        ("user_id", 2**63, "fit into 64 bits"),
        ("user_profile", [1, 2, 3], "hold 5 ids"),
        ("user_profile", [1, 2, 3, 4, 5.5], "whole numbers"),
        ("behavior_item_ids", [1, 2], "as long as behavior_item_ids"),
        ("behavior_item_ids", [[1, 2, 3]], "one-dimensional"),
        ("behavior_item_ids", ["a", "b", "c"], "whole numbers"),
        ("behavior_item_ids", [True, False, True], "whole numbers"),
        ("behavior_item_ids", [1, 2, 2**63], "of 64 bits"),
        ("behavior_item_ids", [1, 2, 2**70], "of 64 bits"),
        ("behavior_item_ids", [1, [2], 3], "of 64 bits"),
        ("candidate_item_ids", [], "hold at least one id"),
        ("candidate_item_ids", [5, 0], "not contain 0"),
    ],
)
def test_wrong_fields_are_named(field, value, part):
    with pytest.raises(RequestError) as caught:
        RankRequest(**{**GOOD, field: value})
    text = str(caught.value)
    assert text.startswith("`") and part in text and "Received: " in text
    if "as long as" not in part:
        assert caught.value.field == field
    assert isinstance(caught.value, ValueError)


def test_long_values_are_cut_in_errors():
    with pytest.raises(RequestError) as caught:
        RankRequest(**{**GOOD, "user_profile": ["x"] * 10_000})
    assert len(str(caught.value)) < 300


lists = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=6)
candidates = st.lists(
    st.integers(-(2**63), 2**63 - 1).filter(bool), min_size=1, max_size=5
)


@st.composite
def requests(draw):
    items = draw(lists)
    return RankRequest(
        user_id=draw(st.integers(-(2**63), 2**63 - 1)),
        user_profile=draw(st.lists(st.integers(0, 9), min_size=5, max_size=5)),
        behavior_item_ids=items,
        behavior_category_ids=list(reversed(items)),
        candidate_item_ids=draw(candidates),
    )


@hypothesis.given(st.lists(requests(), min_size=1, max_size=6))
def test_padding_keeps_every_value_at_its_place(batch):
    inputs = rank_inputs(batch)
    for row, request in enumerate(batch):
        assert inputs["user_id"][row] == request.user_id
        for name in (
            "behavior_item_ids",
            "behavior_category_ids",
            "candidate_item_ids",
        ):
            values = getattr(request, name)
            padded = inputs[name][row]
            assert padded[: len(values)].tolist() == values.tolist()
            assert not padded[len(values) :].any()
    widths = {name: inputs[name].shape[1] for name in inputs if name[0] != "u"}
    longest = max(len(r.behavior_item_ids) for r in batch)
    assert widths["behavior_item_ids"] == max(1, longest)
    assert widths["behavior_item_ids"] == widths["behavior_category_ids"]


@hypothesis.given(
    st.lists(requests(), max_size=12),
    st.integers(1, 4),
    st.integers(1, 60),
)
def test_split_sends_every_request_once_within_the_limits(batch, most, ids):
    parts = list(RANK.batches(batch, Limits(requests=most, ids=ids)))
    assert sorted(sum(parts, [])) == list(range(len(batch)))
    for part in parts:
        assert len(part) <= most
        chosen = [batch[i] for i in part]
        width = 2 * max(len(r.behavior_item_ids) for r in chosen)
        width += max(len(r.candidate_item_ids) for r in chosen)
        assert len(part) == 1 or len(part) * width <= ids
