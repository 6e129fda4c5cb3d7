"""The signature `upsert_items` against models that hold the items already."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from muse_keras.tables import ItemTable
from muse_tools.datasets.item_text import quantize as pipeline_quantize
from serving.export import kernel_report
from serving.export.feature_names import single_categories
from serving.export.ranking_module import RankingModule
from tests.serving.export.world import (
    DIM,
    INT64,
    MAX_HISTORY,
    PRESET,
    SPARE_ROWS,
    World,
    make_model,
    make_requests,
    rank_inputs,
    to_example,
)

tf = pytest.importorskip("tensorflow")

NEW = 4_000_000_001
CATEGORIES = (11, -12, 13, 14, 15, 0, 777)


class Served:
    """The loaded SavedModel, as if it were loaded just now."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __call__(self, signature: str, **inputs: Any) -> dict[str, np.ndarray]:
        return self._world.call(
            signature,
            **{
                name: np.asarray(
                    value, None if name == "embedding" else np.int64
                )
                if name != "examples"
                else value
                for name, value in inputs.items()
            },
        )

    def forget(self) -> None:
        """Empty all slots."""
        loaded = self._world.loaded
        for state in (
            loaded.model_variables["table.fresh_ids"],
            loaded.upsert.counter,
        ):
            state.assign(tf.zeros_like(state))

    def upsert(self, ids: Any, vectors: Any, **features: Any) -> Any:
        names = [f"item_{name}" for name in self._world.features["item"]]
        zeros = dict.fromkeys(names, np.zeros(len(ids)))
        return self(
            "upsert_items",
            item_ids=ids,
            embedding=np.asarray(vectors, np.float32),
            **(zeros | features),
        )


@pytest.fixture
def served(world: World) -> Iterator[Served]:
    served = Served(world)
    yield served
    served.forget()


def vectors_of(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return vectors of any length but 0."""
    lengths = rng.uniform(0.1, 30, (count, 1))
    return (lengths * rng.normal(size=(count, DIM))).astype(np.float32)


def codes_of(vectors: np.ndarray) -> np.ndarray:
    """Return the codes that the pipeline makes of vectors."""
    wide = vectors.astype(np.float64)
    return pipeline_quantize(wide / np.linalg.norm(wide, axis=1, keepdims=True))


def test_codes_are_the_pipelines(served: Served) -> None:
    vectors = vectors_of(np.random.default_rng(0), 200)
    vectors[0] = 0
    vectors[1] = np.finfo(np.float32).max
    vectors[2] = 1e-30
    vectors[3] = np.eye(DIM)[2] * -5
    ids = np.arange(1, 201) * 3_000_000_007
    assert served.upsert(ids, vectors)["stored"].all()
    got = served("embed", item_ids=ids)
    np.testing.assert_array_equal(got["found"], [False] + [True] * 199)
    np.testing.assert_array_equal(
        np.rint(127 * got["embedding"][1:]), codes_of(vectors[1:])
    )
    assert not got["embedding"][0].any()
    # What `embed` returns is taken as it is.
    again = served.upsert(ids, got["embedding"])
    assert not again["stored"].any() and again["used"][0] == 200


def test_a_new_item_is_masked_before_and_similar_after(
    world: World, served: Served
) -> None:
    table = world.item_table
    history = table.item_ids[30 : 30 + MAX_HISTORY]
    vector = vectors_of(np.random.default_rng(1), 1)
    inputs = {
        "user_id": np.array([1]),
        **{f"user_{name}": np.array([0]) for name in world.features["user"]},
        "behavior_item_ids": history[None],
        "behavior_category": np.full((1, MAX_HISTORY), 11),
        "candidate_item_ids": np.array([[NEW, 0, NEW + 1]]),
    }
    before = served("explain", **inputs)
    assert (before["behavior_indices"][0, 0] == -1).all()
    assert not before["similarities"].any()
    assert not served("embed", item_ids=[NEW])["found"][0]
    answer = served.upsert([NEW], vector)
    assert answer["row"].tolist() == [table.num_items + 1]
    after = served("explain", **inputs)
    unit = table.codes * table.inverse_norms()[:, None].astype(np.float64)
    code = codes_of(vector)[0].astype(np.float64)
    cosines = unit[table.rows(history)] @ (code / np.linalg.norm(code))
    order = np.argsort(-cosines, kind="stable")[:4]
    assert after["behavior_indices"][0, 0].tolist() == order.tolist()
    np.testing.assert_allclose(
        after["similarities"][0, 0], cosines[order], atol=1e-6
    )
    # Neither padding nor a stranger has become known.
    assert not after["similarities"][0, 1:].any()
    assert after["click_probability"][0, 1] == 0
    # As a behavior it is found as well, by itself with cosine 1.
    inputs["behavior_item_ids"] = np.array([[*history[:-1], NEW]])
    found = served("explain", **inputs)
    assert found["behavior_indices"][0, 0, 0] == MAX_HISTORY - 1
    assert found["similarities"][0, 0, 0] == pytest.approx(1, abs=1e-6)


def grown_module(world: World, folder: Path, items: dict[str, Any]) -> Any:
    """Return a module whose table was made with items from the start.

    The trained embedding of an item is that of its id, or row 0 if the id is
    new.
    """
    old = world.item_table
    ids = np.unique(np.concatenate([old.item_ids, items["item_ids"]]))
    rows = old.rows(ids)
    codes = old.codes[rows]
    features = {name: old.features[name][rows] for name in old.features}
    given = np.searchsorted(ids, items["item_ids"])
    codes[given] = codes_of(items["embedding"])
    for name in features:
        features[name][given] = items[f"item_{name}"]
    table = ItemTable.write(folder / "t", ids, codes, features, "test")
    model = make_model("muse", table, world.vocabularies)
    for mine, theirs in zip(
        model.trainable_variables, world.model.trainable_variables, strict=True
    ):
        value = theirs.numpy()
        if mine.shape != theirs.shape:
            value = value[np.concatenate([[0], rows])]
        mine.assign(value)
    return RankingModule(
        model=model,
        item_table=table,
        features=single_categories(**PRESET),
        learned=world.vocabularies,
        max_history=MAX_HISTORY,
    )


def test_scores_are_those_of_a_table_made_with_the_items(
    world: World, served: Served, tmp_path: Path
) -> None:
    """New ones, replaced ones and ones without a vector until now."""
    rng = np.random.default_rng(2)
    old = world.item_table
    ids = np.concatenate(
        [[NEW, NEW + 1, -NEW, INT64.max - 1], old.item_ids[5:15], [INT64.min]]
    )
    items = {
        "item_ids": ids,
        "embedding": vectors_of(rng, len(ids)),
        "item_category": rng.choice(CATEGORIES, len(ids)),
        "item_city": rng.choice([21, 22, 0, 5], len(ids)),
        "item_province": rng.choice([31, -32, 8], len(ids)),
    }
    requests = make_requests(old, 30, seed=21)
    for request in requests:
        # A third of all ids are fresh.
        for name in ("behavior_item_ids", "candidate_item_ids"):
            some = rng.random(len(request[name])) < 0.3
            count = int(some.sum())
            request[name][some] = rng.choice(ids, count, replace=False)
    inputs = rank_inputs(requests)
    before = served("rank", **inputs)["click_probability"]
    # In two calls, the second replacing what the first said of some.
    served("upsert_items", **{k: v[::-1][:9] for k, v in items.items()})
    wrong = items | {"embedding": -items["embedding"]}
    served("upsert_items", **{k: v[::2] for k, v in wrong.items()})
    served("upsert_items", **items)
    got = served("rank", **inputs)["click_probability"]
    module = grown_module(world, tmp_path, items)
    expected = module.rank(**{k: tf.constant(v) for k, v in inputs.items()})
    np.testing.assert_allclose(got, expected["click_probability"], atol=2e-6)
    assert np.abs(got - before).max() > 0.05
    explained = served("explain", **inputs)["click_probability"]
    np.testing.assert_allclose(explained, got, atol=1e-6)
    # The path of the Transform graph sees the same vectors.
    place_of = {int(item): place for place, item in enumerate(ids)}
    for request in requests:
        for place, item in enumerate(request["candidate_item_ids"].tolist()):
            for field in ("category", "city", "province"):
                raw = items[f"item_{field}"]
                request[f"candidate_{field}"][place] = (
                    raw[place_of[item]]
                    if item in place_of
                    else old.features[field][old.rows(item)]
                )
    examples = np.array([to_example(r) for r in requests], object)
    np.testing.assert_allclose(
        served("serving_default", examples=examples)["click_probability"],
        got,
        atol=2e-6,
    )


def test_what_is_there_takes_no_slot_and_the_last_of_a_call_counts(
    world: World, served: Served
) -> None:
    first = world.item_table.num_items + 1
    vectors = vectors_of(np.random.default_rng(3), 3)
    features = {"item_category": np.array([11, 12, 13])}
    answer = served.upsert([NEW, 7, NEW], vectors, **features)
    assert answer["stored"].tolist() == [False, True, True]
    assert answer["row"].tolist() == [first + 1, first, first + 1]
    assert answer["used"].tolist() == [2, 2, 2]
    assert answer["capacity"].tolist() == [SPARE_ROWS] * 3
    again = served.upsert([NEW, 7], vectors[[2, 1]], item_category=[13, 12])
    assert not again["stored"].any()
    assert again["row"].tolist() == [first + 1, first]
    # Another category is a change; another unknown category is none.
    changed = served.upsert([NEW, 7], vectors[[2, 1]], item_category=[14, 999])
    assert changed["stored"].tolist() == [True, False]
    assert changed["row"].tolist() == [first + 2, first]
    # An item of the export, just as it is there.
    table = world.item_table
    known = table.item_ids[50:53]
    rows = table.rows(known)
    same = served.upsert(
        known,
        table.codes[rows] / np.float32(127),
        **{f"item_{n}": table.features[n][rows] for n in table.features},
    )
    assert not same["stored"].any() and same["row"].tolist() == rows.tolist()
    none = served.upsert([], np.zeros((0, DIM)))
    assert none["row"].shape == (0,)


def test_a_full_table_refuses_a_call_as_a_whole(served: Served) -> None:
    rng = np.random.default_rng(4)
    ids = np.arange(1, SPARE_ROWS + 2) * 5_000_000_011
    vectors = vectors_of(rng, len(ids))
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        served.upsert(ids, vectors)
    message = caught.value.message
    assert "no room" in message and "export.fresh_items" in message
    assert f"[{SPARE_ROWS}] [0] [{len(ids)}]" in message
    assert not served("embed", item_ids=ids)["found"].any()
    answer = served.upsert(ids[:-1], vectors[:-1])
    assert answer["used"][0] == SPARE_ROWS and answer["stored"].all()
    assert len(np.unique(answer["row"])) == SPARE_ROWS
    with pytest.raises(tf.errors.InvalidArgumentError, match="no room"):
        served.upsert(ids[-1:], vectors[-1:])
    # What is there may be sent again.
    assert not served.upsert(ids[:9], vectors[:9])["stored"].any()
    got = served("embed", item_ids=ids)
    np.testing.assert_array_equal(
        np.rint(127 * got["embedding"][:-1]), codes_of(vectors[:-1])
    )
    assert not got["found"][-1]


def bad_inputs() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield inputs that are refused, with the words that say why."""
    good = {
        "item_ids": np.array([2, 5]),
        "embedding": np.ones((2, DIM), np.float32),
        **dict.fromkeys(
            ("item_category", "item_city", "item_province"), np.array([1, 2])
        ),
    }
    nan, infinite = np.ones((2, DIM), np.float32), np.ones((2, DIM), "f4")
    nan[1, 3], infinite[0, 0] = np.nan, -np.inf
    yield "`item_ids` must not contain 0", {**good, "item_ids": [2, 0]}
    yield "`embedding` must be finite", {**good, "embedding": nan}
    yield "`embedding` must be finite", {**good, "embedding": infinite}
    wide = np.ones((2, DIM + 1), np.float32)
    yield f"`embedding` must have shape .N, {DIM}.", {**good, "embedding": wide}
    yield "`embedding` must have as many rows", {**good, "embedding": nan[:1]}
    yield "`item_city` must have as many rows", {**good, "item_city": [1, 2, 3]}


@pytest.mark.parametrize(("words", "inputs"), bad_inputs())
def test_wrong_inputs_are_named_and_change_nothing(
    served: Served, words: str, inputs: dict[str, Any]
) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=words):
        served("upsert_items", **inputs)
    answer = served.upsert([3], np.ones((1, DIM)))
    assert answer["used"].tolist() == [1]
    assert not served("embed", item_ids=[2, 5])["found"].any()


def test_an_export_starts_empty(world: World) -> None:
    """The warmup, here and in the server, adds nothing."""
    variables = world.export.manifest["variables"]
    assert variables["table.fresh_ids"]["shape"] == [SPARE_ROWS]
    assert world.export.manifest["fresh_items"] == SPARE_ROWS
    assert not world.model.table.fresh_ids.numpy().any()


@pytest.mark.once
def test_every_load_draws_another_number(world: World, served: Served) -> None:
    """With it, what a server has forgotten is noticed."""
    mine = served.upsert([3, 4], np.ones((2, DIM)))["load_id"]
    assert mine[0] == mine[1] > 0
    assert served.upsert([3], np.ones((1, DIM)))["load_id"] == mine[0]
    again = dataclasses.replace(world)  # Not loaded yet.
    assert again.loaded.upsert.load_id.numpy() == 0
    other = Served(again)
    assert other.upsert([3], np.ones((1, DIM)))["load_id"] not in (0, mine[0])


def test_what_it_writes_may_live_on_a_gpu(world: World) -> None:
    """A write without a GPU kernel would bring the whole table to the CPU."""
    uses = kernel_report(world.export.path, "upsert_items").uses
    touching = [u for u in uses if "Resource" in u.op or "Rng" in u.op]
    assert {"ResourceScatterUpdate", "RngReadAndSkip", "ResourceGatherNd"} <= {
        use.op for use in touching
    }
    assert not [u for u in touching if "no GPU kernel" in u.problem]


@pytest.mark.once
def test_without_spare_rows_there_is_no_trace_of_it(world: World) -> None:
    model = make_model("muse", world.item_table, world.vocabularies)
    module = RankingModule(
        model=model,
        item_table=world.item_table,
        features=single_categories(**PRESET),
        learned=world.vocabularies,
        max_history=MAX_HISTORY,
    )
    signatures = module.signatures()
    assert set(signatures) == {"rank", "explain", "embed"}
    assert not [name for name in module.named_variables() if "fresh" in name]
    ops = {node.type for node in signatures["rank"].graph.get_operations()}
    assert "UpperBound" not in ops and "LowerBound" in ops
