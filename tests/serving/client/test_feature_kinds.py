"""Features of every kind reach the model, by every client and transport."""

from __future__ import annotations

import asyncio
import inspect

import numpy as np
import pytest

from schemas.hashing import stable_id
from serving.client import (
    AsyncMuseClient,
    CachedRankRequest,
    MuseClient,
    PrefetchRequest,
    RankRequest,
    RequestError,
    make_example,
)
from serving.client.testing import MockTransport
from serving.client.types import TensorSpec
from tests.serving.kinds_schema import SCHEMA

NAN = float("nan")


def test_half_of_a_surrogate_pair_is_refused():
    from serving.client.declaration import Declaration

    with pytest.raises(RequestError, match="valid Unicode"):
        Declaration(SCHEMA).ids("item_id", "candidate_item_ids", ["\ud800"])


def ids(field: str, *texts) -> list[int]:
    return [stable_id(field, text) for text in texts]


# What callers give, and what the model must get: NumPy arrays written out.
FULL = RankRequest(
    7,
    ["sku-1", "sku-2", "sku-3"],
    ["sku-4", "sku-5"],
    user={
        "age": 31,
        "country": "DE",
        "income": 1200.1,
        "interests": ["tea", "12"],
        "taste": [0.5, -1],
    },
    behaviors={
        "action": ["click", None],
        "dwell": np.array([NAN, 2.5]),
        "category": ["tea", "milk"],
    },
    context={"device": "phone", "load": 3, "pages": [2**62]},
    candidates={
        "offer": [0.25, None, 16_777_217],
        "shelf": ["9007199254740993", "-4", "0"],
        "badges": [["new"], [], ["new", "sale"]],
        "angle": [[1, 2], None, [3.5, 4]],
    },
)
BARE = RankRequest("-9", [5, 6], candidates={"shelf": [1, 2]})
USERS = {
    "user_id": np.array([7, -9]),
    "user_age": np.array([31, 0]),
    "user_country": np.array([*ids("user_country", "DE"), 0]),
    "user_income": np.array([1200.1, NAN], np.float32),
    "user_interests": np.array(
        [[*ids("user_interests", "tea", "12"), 0], [0, 0, 0]]
    ),
    "user_taste": np.array([[0.5, -1], [NAN, NAN]], np.float32),
}
BEHAVIORS = {
    "behavior_item_ids": np.array([ids("item_id", "sku-4", "sku-5"), [0, 0]]),
    "behavior_action": np.array(
        [[*ids("behavior_action", "click"), 0], [0, 0]]
    ),
    "behavior_dwell": np.array([[NAN, 2.5], [NAN, NAN]], np.float32),
    "behavior_category": np.array(
        [ids("item_category", "tea", "milk"), [0, 0]]
    ),
}
CANDIDATES = {
    "candidate_item_ids": np.array(
        [ids("item_id", "sku-1", "sku-2", "sku-3"), [5, 6, 0]]
    ),
    "candidate_offer": np.array(
        [[0.25, NAN, 16_777_217], [NAN] * 3], np.float32
    ),
    "candidate_shelf": np.array([[2**53 + 1, -4, 0], [1, 2, 0]]),
    "candidate_badges": np.array(
        [
            [
                [*ids("candidate_badges", "new"), 0],
                [0, 0],
                ids("candidate_badges", "new", "sale"),
            ],
            [[0, 0]] * 3,
        ]
    ),
    "candidate_angle": np.array(
        [[[1, 2], [NAN, NAN], [3.5, 4]], [[NAN, NAN]] * 3], np.float32
    ),
    "context_device": np.array([*ids("context_device", "phone"), 0]),
    "context_load": np.array([3, NAN], np.float32),
    "context_pages": np.array([[2**62, 0], [0, 0]]),
}


@pytest.fixture(scope="module", params=[True, False], ids=["wide", "any"])
def kinds(request, tmp_path_factory):
    """A served model whose signatures declare widths, or not."""
    from serving.model_server import ServerConfig, running
    from tests.serving import toy_kinds

    base = tmp_path_factory.mktemp("kinds")
    toy_kinds.export_toy_kinds(base, request.param)
    config = ServerConfig(model_base_path=str(base), port=0, rest_api_port=0)
    with running(config) as app:
        yield {"grpc": app.grpc_target, "rest": app.rest_url}


def asked(kind, target, transport, schema, *steps):
    """Results of calls, and what the model saw in each."""
    seen = []

    async def run():
        client = kind(target, transport, schema=schema)
        send = client._transport.send

        def note(answer):
            if isinstance(answer, dict):
                seen.append(
                    {
                        name.removeprefix("seen_"): value
                        for name, value in answer.items()
                        if name.startswith("seen_")
                    }
                )
            return answer

        def noting(call, seconds):
            answer = send(call, seconds)
            if not inspect.isawaitable(answer):
                return note(answer)

            async def later():
                return note(await answer)

            return later()

        client._transport.send = noting
        results = []
        for step in steps:
            result = step(client)
            if inspect.isawaitable(result):
                result = await result
            results.append(result)
        closing = client.close()
        if closing is not None:
            await closing
        return results

    return asyncio.run(run()), seen


def check(found, expected) -> None:
    """Equal bits, but that all NaN count as one."""
    assert set(found) == set(expected)
    for name, want in expected.items():
        if want.dtype == np.float32:
            got = found[name].astype(np.int32).view(np.float32)
        else:
            got = found[name]
        assert got.dtype == want.dtype and got.shape == want.shape, name
        np.testing.assert_array_equal(got, want, err_msg=name)


@pytest.mark.tf
@pytest.mark.parametrize("transport", ["grpc", "rest"])
@pytest.mark.parametrize("kind", [MuseClient, AsyncMuseClient])
def test_every_kind_reaches_the_model(kinds, kind, transport):
    both = [FULL, BARE]
    prefetched = [
        PrefetchRequest(r.user_id, r.behavior_item_ids, r.user, r.behaviors)
        for r in both
    ]
    by_rows = PrefetchRequest(
        7, None, FULL.user, FULL.behaviors, behavior_rows=[4, 5], table_stamp=3
    )
    cached = [
        CachedRankRequest(
            r.user_id, r.candidate_item_ids, r.context, r.candidates
        )
        for r in both
    ]
    results, seen = asked(
        kind,
        kinds[transport],
        transport,
        SCHEMA,
        lambda client: client.rank(both),
        lambda client: client.explain(both),
        lambda client: client.prefetch(prefetched),
        lambda client: client.prefetch(by_rows),
        lambda client: client.rank_cached(cached),
        lambda client: client.upsert_items(
            ["a", "b"],
            [[1.0], [2.0]],
            {
                "category": ["tea", "12"],
                "price": [NAN, 2],
                "tags": [[5], [6, 7]],
                "look": [[1, 2, 3], None],
            },
        ),
    )
    # Requests with shorter histories come first in a batch.
    turned = {
        name: values[::-1] for name, values in {**USERS, **BEHAVIORS}.items()
    }
    scored = {name: values[::-1] for name, values in CANDIDATES.items()}
    check(seen[0], turned | scored)
    check(seen[1], turned | scored)
    check(seen[2], turned)
    rows = {n: v[:1] for n, v in {**USERS, **BEHAVIORS}.items()}
    del rows["behavior_item_ids"]
    rows["behavior_rows"] = np.array([[4, 5]], np.int32)
    check(seen[3], rows | {"table_stamp": np.array([3])})
    check(seen[4], {"user_id": USERS["user_id"]} | CANDIDATES)
    check(
        seen[5],
        {
            "item_ids": np.array(ids("item_id", "a", "b")),
            "embedding": np.array([[1.0], [2.0]], np.float32),
            "item_category": np.array(ids("item_category", "tea", "12")),
            "item_price": np.array([NAN, 2], np.float32),
            "item_tags": np.array([[5, 0], [6, 7]]),
            "item_look": np.array([[1, 2, 3], [NAN] * 3], np.float32),
        },
    )
    offers = np.array([0.25, 0, 16_777_217], np.float32)
    click = 1 / (1 + np.exp(-offers))
    for result in (results[0][0], results[1][0], results[4][0]):
        assert result.candidate_item_ids.tolist() == ["sku-1", "sku-2", "sku-3"]
        np.testing.assert_allclose(result.click_probability, click, rtol=1e-6)
        assert list(result.probabilities) == ["click", "order"]
        np.testing.assert_allclose(
            result.probabilities["order"], click / 2, rtol=1e-6
        )
        np.testing.assert_array_equal(
            result.probabilities["click"], result.click_probability
        )
    assert results[0][1].candidate_item_ids.tolist() == [5, 6]


@pytest.mark.tf
def test_a_width_that_only_the_server_knows(kinds):
    """Without it the longest list counts, but vectors of a call are alike."""
    one = RankRequest(1, [2], user={"taste": [1.0, 2.0]})
    other = RankRequest(1, [2], user={"taste": [1.0, 2.0, 3.0]})
    with MuseClient(kinds["grpc"]) as client:
        inputs = client.metadata().signatures["rank"].inputs
        client.rank([one, RankRequest(2, [3])])
        if inputs["user_taste"].shape == (-1, 2):
            with pytest.raises(RequestError, match="have 2 numbers"):
                client.rank(other)
        else:
            client.rank(other)
        with pytest.raises(RequestError, match=r"user\['taste'\].*numbers"):
            client.rank([one, other])


SPECS = {
    "rank": {
        "user_id": TensorSpec("int64", (-1,)),
        "user_age": TensorSpec("int64", (-1,)),
        "user_income": TensorSpec("float", (-1,)),
        "user_interests": TensorSpec("int64", (-1, 3)),
        "user_taste": TensorSpec("float", (-1, 2)),
        "context_device": TensorSpec("int64", (-1,)),
        "behavior_item_ids": TensorSpec("int64", (-1, -1)),
        "behavior_dwell": TensorSpec("float", (-1, -1)),
        "candidate_item_ids": TensorSpec("int64", (-1, -1)),
        "candidate_offer": TensorSpec("float", (-1, -1)),
        "candidate_angle": TensorSpec("float", (-1, -1, 2)),
    }
}
WHOLE = "be whole numbers (int64). Received: "
NUMBERS = "be numbers (float). Received: "
WRONG = [
    ({"user": {"height": 1}}, "`user` must name features of the model: age, "),
    ({"context": {"hour": 1}}, "`context` must name features of the model: "),
    ({"candidates": {"item_ids": [1, 2]}}, "`candidates` must name features"),
    ({"user": {"age": 3.0}}, f"`user['age']` must {WHOLE}3.0"),
    (
        {"user": {"age": "DE"}},
        "`user['age']` must be a whole number of 64 bits (for texts, "
        "give the declaration as schema). Received: 'DE'",
    ),
    ({"user": {"age": [3]}}, "`user['age']` must be one of whole numbers, not"),
    ({"user": {"income": "12"}}, f"`user['income']` must {NUMBERS}'12'"),
    ({"user": {"income": [1.5]}}, "`user['income']` must be one of numbers, "),
    ({"user": {"income": 1e39}}, "`user['income']` must fit into 32 bits"),
    ({"user": {"interests": 3}}, "`user['interests']` must be a list of whole"),
    (
        {"user": {"interests": [1, 2, 3, 4]}},
        "`user['interests']` must have at most 3 values. Received: '4 values'",
    ),
    ({"user": {"interests": [1, 2.5]}}, f"`user['interests']` must {WHOLE}1.0"),
    (
        {"user": {"taste": [1]}},
        "`user['taste']` must have 2 numbers. Received: '1 numbers'",
    ),
    ({"user": {"taste": ["a", 1]}}, f"`user['taste']` must {NUMBERS}'a'"),
    (
        {"behaviors": {"dwell": ["x", 1, 2]}},
        f"`behaviors['dwell']` must {NUMBERS}",
    ),
    (
        {"behaviors": {"dwell": [[1], 2, 3]}},
        "`behaviors['dwell']` must be one of numbers, not a list",
    ),
    (
        {"candidates": {"angle": [[1, 2], [1, 2, 3]]}},
        "`candidates['angle']` must have 2 numbers. Received: '3 numbers'",
    ),
    (
        {"candidates": {"angle": [1, 2]}},
        "`candidates['angle']` must be a list of numbers. Received: 1",
    ),
    (
        {"user_id": "u-1"},
        "`user_id` must be a whole number of 64 bits (for texts",
    ),
    (
        {"candidate_item_ids": ["1", "x"]},
        "`candidate_item_ids` must be a whole number of 64 bits (for texts",
    ),
    (
        {"behavior_item_ids": ["1", "2", "9223372036854775808"]},
        "`behavior_item_ids` must be a whole number of 64 bits (for texts",
    ),
]
GOOD = {
    "user_id": 1,
    "candidate_item_ids": [3, 4],
    "behavior_item_ids": [5, 6, 7],
}


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_what_does_not_fit_is_named_and_not_sent(change, message):
    def refuse(_):
        raise AssertionError("nothing may be sent")

    transport = MockTransport({"rank": refuse}, inputs=SPECS)
    with MuseClient("t", transport) as client:
        with pytest.raises(RequestError) as caught:
            client.rank(RankRequest(**{**GOOD, **change}))
    text = str(caught.value)
    assert text.startswith(message) and "\n" not in text
    assert [type(call).__name__ for call in transport.calls] == ["GetMetadata"]


def test_a_declaration_of_another_type_is_named():
    specs = {"rank": {**SPECS["rank"], "user_age": TensorSpec("float", (-1,))}}
    transport = MockTransport({"rank": lambda _: {}}, inputs=specs)
    with MuseClient("t", transport, schema=SCHEMA) as client:
        with pytest.raises(
            RequestError, match="`schema` must .* user_age is fl"
        ):
            client.rank(RankRequest(1, [2]))


def test_decimals_keep_64_bits_without_a_declaration():
    transport = MockTransport(
        {
            "rank": lambda i: {
                "click_probability": i["candidate_item_ids"] * 0.0
            }
        },
        inputs=SPECS,
    )
    with MuseClient("t", transport) as client:
        big = str(2**63 - 1)
        found = client.rank(
            RankRequest(
                big, [big, "-1"], [big], {"age": big, "interests": [big]}
            )
        )
    assert found.candidate_item_ids.tolist() == [big, "-1"]
    sent = transport.calls[-1].inputs
    for name in ("user_id", "user_age", "behavior_item_ids", "user_interests"):
        assert sent[name].ravel()[0] == 2**63 - 1
        assert sent[name].dtype == np.int64
    assert sent["candidate_item_ids"].tolist() == [[2**63 - 1, -1]]


def test_without_metadata_values_say_their_types():
    transport = MockTransport(
        {"rank": lambda i: {"click_probability": i["candidate_item_ids"] * 0.0}}
    )
    with MuseClient("t", transport) as client:
        client.rank(
            [
                RankRequest(
                    1,
                    [2, 3],
                    [4],
                    {"a": 1, "b": 0.5, "c": [1, 2]},
                    {"d": [1.5]},
                    {"e": "7"},
                    {"f": [[1], [2, 3]]},
                ),
                RankRequest(2, [5]),
            ]
        )
    sent = transport.calls[-1].inputs
    want = {
        "user_a": np.array([0, 1]),
        "user_b": np.array([NAN, 0.5], np.float32),
        "user_c": np.array([[0, 0], [1, 2]]),
        "behavior_d": np.array([[NAN], [1.5]], np.float32),
        "context_e": np.array([0, 7]),
        "candidate_f": np.array([[[0, 0], [0, 0]], [[1, 0], [2, 3]]]),
    }
    for name, values in want.items():
        assert sent[name].dtype == values.dtype, name
        np.testing.assert_array_equal(sent[name], values, err_msg=name)


@pytest.mark.tf
def test_examples_hold_every_kind():
    import tensorflow as tf

    items = {"category": ["tea", None, "12"], "price": [1, None, 2.5]}
    for request, given in ((FULL, items), (BARE, {})):
        example = tf.train.Example.FromString(
            make_example(request, given, SCHEMA)
        )
        found = {
            name: np.array(one.float_list.value, np.float32)
            if one.HasField("float_list")
            else np.array(one.int64_list.value, np.int64)
            for name, one in example.features.feature.items()
        }
        row = 0 if request is FULL else 1
        count = len(request.candidate_item_ids)
        length = len(request.behavior_item_ids)
        want = {name: values[row].ravel() for name, values in USERS.items()}
        want |= {
            name: values[row, :length].ravel()
            for name, values in BEHAVIORS.items()
        }
        want |= {
            name: np.repeat(values[row : row + 1], count, axis=0).ravel()
            if name.startswith("context_")
            else values[row, :count].ravel()
            for name, values in CANDIDATES.items()
        }
        tea = [stable_id("item_category", "tea"), 0]
        tea.append(stable_id("item_category", "12"))
        empty = row == 1
        want |= {
            "candidate_category": np.zeros(2, int) if empty else np.array(tea),
            "candidate_price": np.array(
                [NAN, NAN] if empty else [1, NAN, 2.5], np.float32
            ),
            "candidate_tags": np.zeros(2 * count, int),
            "candidate_look": np.full(3 * count, NAN, np.float32),
        }
        assert set(found) == set(want)
        for name, values in want.items():
            assert found[name].dtype == values.dtype, name
            np.testing.assert_array_equal(found[name], values, err_msg=name)
