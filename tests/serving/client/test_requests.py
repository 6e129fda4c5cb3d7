"""Requests are checked where they are made, and named when wrong."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from serving.client import Limits, RankRequest, RequestError, TensorSpec
from serving.client.batches import RANK, rank_inputs
from serving.client.declared_inputs import SignatureInputs

GOOD = {
    "user_id": 1,
    "candidate_item_ids": [9, -9],
    "behavior_item_ids": [7, 0, 8],
    "user": {"age": 3},
    "behaviors": {"brand": [1, 0, 1]},
}


def test_lists_become_int64():
    request = RankRequest(**GOOD)
    assert request.behavior_item_ids.dtype == np.int64
    assert request.behaviors["brand"].dtype == np.int64
    assert RankRequest(1, [9]).behavior_item_ids.shape == (0,)
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
        ("user_id", "", "be a whole number"),
        ("user_id", None, "be a whole number"),
        ("user_id", 2**63, "fit into 64 bits"),
        ("user", [("age", 3)], "map names of features to values"),
        ("user", {"age": True}, "be a finite number"),
        ("user", {"age": float("inf")}, "be a finite number"),
        ("user", {"age": 2**63}, "of 64 bits"),
        ("user", {"age": b"3"}, "a text or a list"),
        ("user", {"age": {"a": 1}}, "a text or a list"),
        ("user", {"age": [1, [2]]}, "be a finite number"),
        ("user", {"age": np.array([[1]])}, "at most one list per entry"),
        ("user", {"age": [1, True]}, "be a finite number"),
        ("behaviors", [1, 0, 1], "map names of features to values"),
        ("behaviors", {"brand": 3}, "be a list of values"),
        ("behaviors", {"brand": "abc"}, "be a list of values"),
        ("behaviors", {"brand": [1, 0]}, "as long as behavior_item_ids, 3"),
        ("behaviors", {"brand": [1, 0, 2**63]}, "of 64 bits"),
        ("behaviors", {"brand": [[1], [2, np.inf], []]}, "finite"),
        ("candidates", {"place": [1]}, "as long as candidate_item_ids, 2"),
        ("context", {"hour": 1e400}, "be a finite number"),
        ("behavior_item_ids", [1, 2], "as long as behavior_item_ids"),
        ("behavior_item_ids", [[1, 2, 3]], "one-dimensional"),
        ("behavior_item_ids", [1, "b", "c"], "whole numbers"),
        ("behavior_item_ids", [1.0, 2.0, 3.0], "whole numbers"),
        ("behavior_item_ids", [True, False, True], "whole numbers"),
        ("behavior_item_ids", [1, 2, True], "whole numbers"),
        ("behavior_item_ids", [1, 2, 2**63], "of 64 bits"),
        ("behavior_item_ids", [1, 2, 2**70], "of 64 bits"),
        ("behavior_item_ids", [1, [2], 3], "of 64 bits"),
        ("candidate_item_ids", [], "hold at least one id"),
        ("candidate_item_ids", [5, 0], "not contain 0"),
        ("candidate_item_ids", ["a", ""], "not contain 0"),
    ],
)
def test_wrong_fields_are_named(field, value, part):
    with pytest.raises(RequestError) as caught:
        RankRequest(**{**GOOD, field: value})
    text = str(caught.value)
    assert text.startswith("`") and part in text and "Received: " in text
    if isinstance(value, dict):
        assert caught.value.field == f"{field}[{next(iter(value))!r}]"
    elif "as long as" not in part:
        assert caught.value.field == field
    assert isinstance(caught.value, ValueError)


def test_long_values_are_cut_in_errors():
    with pytest.raises(RequestError) as caught:
        RankRequest(**{**GOOD, "behavior_item_ids": [0.5] * 10_000})
    assert len(str(caught.value)) < 300


USER, BEHAVIORS = ("age", "home"), ("brand", "shop")
DECLARED = {
    **dict.fromkeys(
        ("user_id", "user_age", "user_home"), TensorSpec("int64", (-1,))
    ),
    **dict.fromkeys(
        (
            *("behavior_item_ids", "behavior_brand", "behavior_shop"),
            "candidate_item_ids",
        ),
        TensorSpec("int64", (-1, -1)),
    ),
}
lists = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=6)
candidates = st.lists(
    st.integers(-(2**63), 2**63 - 1).filter(bool), min_size=1, max_size=5
)


@st.composite
def requests(draw):
    items = draw(lists)
    return RankRequest(
        user_id=draw(st.integers(-(2**63), 2**63 - 1)),
        candidate_item_ids=draw(candidates),
        behavior_item_ids=items,
        user={
            name: draw(st.integers(0, 9))
            for name in draw(st.sets(st.sampled_from(USER)))
        },
        behaviors={
            name: list(reversed(items))
            for name in draw(st.sets(st.sampled_from(BEHAVIORS)))
        },
    )


@hypothesis.given(st.lists(requests(), min_size=1, max_size=6), st.booleans())
def test_padding_keeps_every_value_at_its_place(batch, is_declared):
    declared = SignatureInputs(DECLARED if is_declared else {})
    inputs = rank_inputs(batch, declared)
    longest = max(1, *(len(request.behavior_item_ids) for request in batch))
    if is_declared:
        assert set(inputs) == set(DECLARED)

    def check(name, row, values):
        padded = inputs[name][row]
        assert padded[: len(values)].tolist() == list(values)
        assert not padded[len(values) :].any()
        if name.startswith("behavior_"):
            assert len(padded) == longest

    for row, request in enumerate(batch):
        assert inputs["user_id"][row] == request.user_id
        for name in ("behavior_item_ids", "candidate_item_ids"):
            check(name, row, getattr(request, name))
        # A feature that only others have is 0.
        for name in USER:
            if f"user_{name}" in inputs:
                value = request.user.get(name, 0)
                assert inputs[f"user_{name}"][row] == value
        for name in BEHAVIORS:
            if f"behavior_{name}" in inputs:
                check(f"behavior_{name}", row, request.behaviors.get(name, []))


@pytest.mark.parametrize(
    ("field", "given", "names"),
    [
        ("user", {"height": 1}, "age, home"),
        ("user", {"id": 1}, "age, home"),
        ("behaviors", {"rows": [1, 2, 3]}, "brand, shop"),
        ("behaviors", {"item_ids": [1, 2, 3]}, "brand, shop"),
    ],
)
def test_names_that_are_not_declared(field, given, names):
    request = RankRequest(1, [9], [1, 2, 3], **{field: given})
    with pytest.raises(RequestError, match=f"features of the model: {names}"):
        rank_inputs([request], SignatureInputs(DECLARED))
    (name,) = given
    declared = SignatureInputs({"user_id": DECLARED["user_id"]})
    with pytest.raises(RequestError, match=f"none. Received: '{name}'"):
        rank_inputs([request], declared)


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
        width = max(
            (1 + len(r.behaviors)) * len(r.behavior_item_ids) for r in chosen
        )
        width += max(len(r.candidate_item_ids) for r in chosen)
        assert len(part) == 1 or len(part) * width <= ids
