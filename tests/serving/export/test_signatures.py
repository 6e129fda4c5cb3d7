"""The signatures of an export against the model and NumPy."""

from typing import Any

import numpy as np
import pytest

from tests.serving.export.world import (
    DIM,
    INT64,
    MAX_HISTORY,
    PRESET,
    K,
    World,
    make_requests,
    rank_inputs,
    to_example,
)

tf = pytest.importorskip("tensorflow")

from muse_keras.tensorflow import densify, feature_matches  # noqa: E402
from serving.export import ranking_module  # noqa: E402
from serving.export.feature_names import single_categories  # noqa: E402
from serving.export.ranking_module import RankingModule  # noqa: E402
from serving.export.vocabulary import Vocabulary  # noqa: E402


def vocabulary_index(vocabulary: np.ndarray, raw: int) -> int:
    """Return the index of a raw id, from the convention."""
    if raw == 0:
        return 0
    found = np.flatnonzero(vocabulary == raw)
    return int(found[0]) + 1 if len(found) else len(vocabulary) + 1


def oracle_inputs(
    world: World, request: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the model's inputs for one request, from the definitions."""
    table, features = world.item_table, world.features

    def indices(name: str, raw: Any) -> np.ndarray:
        known = world.vocabularies[name]
        return np.array(
            [vocabulary_index(known, int(v)) for v in raw], np.int32
        )

    real = [
        position
        for position, item in enumerate(request["behavior_item_ids"])
        if item != 0
    ][-MAX_HISTORY:]
    behaviors = {
        name: indices(f"item_{name}", request[f"behavior_{name}"][real])
        for name in features["behavior"]
    }
    row_of = {int(item): row + 1 for row, item in enumerate(table.item_ids)}
    rows = [row_of.get(int(item), 0) for item in request["candidate_item_ids"]]
    candidates = {
        name: indices(f"item_{name}", table.features[name][rows])
        for name in features["item"]
    }
    matches = [
        [
            0 if c == 0 else int((behaviors[name] == c).sum())
            for c in candidates[name]
        ]
        for name in features["matches"]
    ]
    ids = request["candidate_item_ids"]
    inputs = {
        "user_features": np.array(
            [
                index
                for name in features["user"]
                for index in indices(f"user_{name}", request[f"user_{name}"])
            ],
            np.int32,
        ),
        "behavior_item_ids": request["behavior_item_ids"][real],
        "behavior_mask": np.ones(len(real), bool),
        "candidate_item_ids": ids,
        "candidate_features": np.stack([*candidates.values()], axis=1),
        "candidate_mask": ids != 0,
    }
    if behaviors:
        inputs["behavior_features"] = np.stack([*behaviors.values()], axis=1)
    if matches:
        inputs["candidate_matches"] = np.array(matches, np.float32).T
    return inputs


def oracle_scores(world: World, request: dict[str, np.ndarray]) -> np.ndarray:
    """Return the Keras model's probabilities for one request alone."""
    inputs = oracle_inputs(world, request)
    logits = world.model({k: v[None] for k, v in inputs.items()})
    return 1.0 / (1.0 + np.exp(-np.asarray(logits, np.float64)[0]))


def test_rank_equals_model_on_features_by_definition(world: World) -> None:
    requests = make_requests(world.item_table, 12, seed=6)
    scores = world.call("rank", **rank_inputs(requests))["click_probability"]
    assert scores.dtype == np.float32
    for row, request in zip(scores, requests, strict=True):
        count = len(request["candidate_item_ids"])
        np.testing.assert_allclose(
            row[:count], oracle_scores(world, request), atol=2e-6
        )
        assert (row[count:] == 0).all()


def test_scores_tell_candidates_apart(world: World) -> None:
    requests = make_requests(world.item_table, 12, seed=6)
    scores = world.call("rank", **rank_inputs(requests))["click_probability"]
    assert np.std(scores[scores > 0]) > 0.05


@pytest.mark.parametrize(("left", "extra"), [(True, 0), (False, 9), (True, 3)])
def test_padding_never_changes_a_score(
    world: World, left: bool, extra: int
) -> None:
    requests = make_requests(world.item_table, 8, seed=7)
    plain = world.call("rank", **rank_inputs(requests))
    padded = world.call("rank", **rank_inputs(requests, left, extra))
    np.testing.assert_allclose(
        padded["click_probability"], plain["click_probability"], atol=1e-6
    )


def test_behaviors_before_the_newest_do_not_count(world: World) -> None:
    request = make_requests(world.item_table, 1, seed=8)[0]
    newest = world.item_table.item_ids[30 : 30 + MAX_HISTORY]
    categories = np.full(MAX_HISTORY, 11)
    older = world.item_table.item_ids[60:80]
    scores = [
        world.call(
            "rank",
            **rank_inputs(
                [
                    request
                    | {
                        "behavior_item_ids": np.concatenate([old, newest]),
                        "behavior_category": np.concatenate(
                            [np.full(len(old), 13), categories]
                        ),
                    }
                ]
            ),
        )["click_probability"]
        for old in (older[:0], older)
    ]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-6)


def test_examples_give_the_scores_of_rank(world: World) -> None:
    requests = make_requests(world.item_table, 20, seed=9)
    ranked = world.call("rank", **rank_inputs(requests))
    served = world.call(
        "serving_default",
        examples=np.array([to_example(r) for r in requests], object),
    )
    np.testing.assert_array_equal(
        served["candidate_item_ids"],
        rank_inputs(requests)["candidate_item_ids"],
    )
    np.testing.assert_allclose(
        served["click_probability"], ranked["click_probability"], atol=2e-6
    )


def test_examples_need_no_label(world: World) -> None:
    request = make_requests(world.item_table, 1, seed=10)[0]
    with_label = world.call(
        "serving_default", examples=np.array([to_example(request)], object)
    )
    del request["clicks"]
    without = world.call(
        "serving_default", examples=np.array([to_example(request)], object)
    )
    np.testing.assert_array_equal(
        with_label["click_probability"], without["click_probability"]
    )


def test_empty_sizes(world: World) -> None:
    request = make_requests(world.item_table, 1, seed=11)[0]
    inputs = rank_inputs([request])
    none = np.zeros((1, 0), np.int64)
    no_history = world.call(
        "rank",
        **inputs | {"behavior_item_ids": none, "behavior_category": none},
    )["click_probability"]
    padding = np.zeros((1, 7), np.int64)
    all_padding = world.call(
        "rank",
        **inputs | {"behavior_item_ids": padding, "behavior_category": padding},
    )["click_probability"]
    assert np.isfinite(no_history).all() and (no_history > 0).all()
    np.testing.assert_allclose(no_history, all_padding, atol=1e-6)
    no_candidates = world.call("rank", **inputs | {"candidate_item_ids": none})
    assert no_candidates["click_probability"].shape == (1, 0)
    no_requests = world.call(
        "rank",
        **{name: value[:0] for name, value in inputs.items()},
    )
    assert no_requests["click_probability"].size == 0


def test_unknown_candidates_share_one_score(world: World) -> None:
    request = make_requests(world.item_table, 1, seed=12)[0]
    unknown = np.array([[2, 3, INT64.min + 1, INT64.max - 1, 0]])
    assert not world.item_table.rows(unknown).any()
    scores = world.call(
        "rank", **rank_inputs([request]) | {"candidate_item_ids": unknown}
    )["click_probability"][0]
    assert scores[0] > 0
    np.testing.assert_array_equal(scores[:4], scores[0])
    assert scores[4] == 0


def test_permuting_candidates_permutes_scores(world: World) -> None:
    inputs = rank_inputs(make_requests(world.item_table, 4, seed=13))
    order = np.random.default_rng(0).permutation(
        inputs["candidate_item_ids"].shape[1]
    )
    scores = world.call("rank", **inputs)["click_probability"]
    moved = world.call(
        "rank",
        **inputs
        | {"candidate_item_ids": inputs["candidate_item_ids"][:, order]},
    )["click_probability"]
    np.testing.assert_allclose(moved, scores[:, order], atol=1e-6)


def test_explain_shows_the_most_similar_behaviors(world: World) -> None:
    requests = make_requests(world.item_table, 10, seed=14)
    inputs = rank_inputs(requests, left=True, extra=2)
    shown = world.call("explain", **inputs)
    ranked = world.call("rank", **inputs)
    np.testing.assert_allclose(
        shown["click_probability"], ranked["click_probability"], atol=1e-6
    )
    table = world.item_table
    unit = table.codes.astype(np.float64) * table.inverse_norms()[:, None]
    for b, request in enumerate(requests):
        history = inputs["behavior_item_ids"][b]
        real = np.flatnonzero(history)[-MAX_HISTORY:]
        for c, item in enumerate(request["candidate_item_ids"]):
            cosines = unit[table.rows(history[real])] @ unit[table.rows(item)]
            has_vector = (
                unit[table.rows(history[real])].any(axis=1)
                & unit[table.rows(item)].any()
            )
            order = np.argsort(-cosines, kind="stable")
            order = order[has_vector[order]][:K]
            count = len(order)
            indices = shown["behavior_indices"][b, c]
            np.testing.assert_array_equal(indices[:count], real[order])
            assert (indices[count:] == -1).all()
            np.testing.assert_allclose(
                shown["similarities"][b, c, :count], cosines[order], atol=1e-6
            )
            assert (shown["similarities"][b, c, count:] == 0).all()
            assert shown["tiers"][b, c].sum() == count
            attention = shown["attention"][b, c]
            np.testing.assert_allclose(
                attention.sum(), 1.0 if count else 0.0, atol=1e-5
            )
        padded = len(request["candidate_item_ids"])
        assert (shown["behavior_indices"][b, padded:] == -1).all()
        assert (shown["tiers"][b, padded:] == 0).all()


def test_embed(world: World) -> None:
    table = world.item_table
    ids = np.concatenate([table.item_ids, [0, 2, INT64.min + 1]])
    got = world.call("embed", item_ids=ids)
    expected = np.zeros((len(ids), DIM), np.float32)
    expected[: table.num_items] = table.codes[1:] / np.float32(127)
    np.testing.assert_allclose(got["embedding"], expected, rtol=1e-6)
    has_vector = np.zeros(len(ids), bool)
    has_vector[: table.num_items] = table.codes[1:].any(axis=1)
    np.testing.assert_array_equal(got["found"], has_vector)
    assert got["found"][0]  # The smallest int64 is an item of the table.
    assert world.call("embed", item_ids=ids[:0])["embedding"].shape == (0, DIM)


def test_declared_interface(world: World) -> None:
    signatures = world.loaded.signatures
    assert set(signatures) == {
        "serving_default",
        "rank",
        "explain",
        "embed",
        "upsert_items",
        "prefetch",
        "prefetch_rows",
        "resolve_items",
        "rank_cached",
        "user_cache",
    }
    declared = {
        name: {
            key: (spec.dtype.name, spec.shape.as_list())
            for key, spec in signatures[name]
            .structured_input_signature[1]
            .items()
        }
        for name in signatures
    }
    assert declared["rank"] == declared["explain"]
    history = {
        "user_id": ("int64", [None]),
        **{f"user_profile_{n}": ("int64", [None]) for n in range(1, 6)},
        "behavior_category": ("int64", [None, None]),
    }
    assert declared["rank"] == {
        **history,
        "behavior_item_ids": ("int64", [None, None]),
        "candidate_item_ids": ("int64", [None, None]),
    }
    assert declared["embed"] == {"item_ids": ("int64", [None])}
    assert declared["upsert_items"] == {
        "item_ids": ("int64", [None]),
        "embedding": ("float32", [None, None]),
        "item_category": ("int64", [None]),
        "item_city": ("int64", [None]),
        "item_province": ("int64", [None]),
    }
    assert declared["serving_default"] == {"examples": ("string", [None])}
    assert declared["prefetch"] == {
        **history,
        "behavior_item_ids": ("int64", [None, None]),
    }
    assert declared["prefetch_rows"] == {
        **history,
        "behavior_rows": ("int32", [None, None]),
        "table_stamp": ("int64", [None]),
    }
    assert declared["rank_cached"] == {
        "user_id": ("int64", [None]),
        "candidate_item_ids": ("int64", [None, None]),
    }
    assert declared["resolve_items"] == {"item_ids": ("int64", [None])}
    assert declared["user_cache"] == {"user_id": ("int64", [None])}
    outputs = {
        name: {
            key: spec.dtype.name
            for key, spec in signatures[name].structured_outputs.items()
        }
        for name in signatures
    }
    assert outputs == {
        "serving_default": {
            "click_probability": "float32",
            "candidate_item_ids": "int64",
        },
        "rank": {"click_probability": "float32"},
        "explain": {
            "click_probability": "float32",
            "behavior_indices": "int32",
            "similarities": "float32",
            "attention": "float32",
            "tiers": "float32",
        },
        "embed": {"embedding": "float32", "found": "bool"},
        "upsert_items": {
            "row": "int64",
            "stored": "bool",
            "used": "int64",
            "capacity": "int64",
            "load_id": "int64",
        },
        "prefetch": {"cached_length": "int32", "generation": "int64"},
        "prefetch_rows": {"cached_length": "int32", "generation": "int64"},
        "resolve_items": {"row": "int32", "table_stamp": "int64"},
        "rank_cached": {
            "click_probability": "float32",
            "cache_hit": "bool",
            "generation": "int64",
        },
        "user_cache": {
            "cached_length": "int32",
            "generation": "int64",
            "age_seconds": "float32",
            "capacity": "int64",
            "occupied": "int64",
            "max_length": "int64",
            "bytes": "int64",
            "hits": "int64",
            "misses": "int64",
            "prefetches": "int64",
            "evictions": "int64",
            "expired": "int64",
            "mixed": "int64",
        },
    }


def untruncated_examples(world: World) -> RankingModule:
    """A module whose Transform graph keeps histories of any length."""
    known = {
        name: Vocabulary(name, values)
        for name, values in world.vocabularies.items()
    }
    users = [f"user_{name}" for name in PRESET["user"]]

    def transform(raw: dict[str, Any]) -> dict[str, Any]:
        raw = {name: densify(values) for name, values in raw.items()}
        behaviors = known["item_category"](raw["behavior_category"])
        candidates = {
            f"candidate_{name}": known[f"item_{name}"](raw[f"candidate_{name}"])
            for name in PRESET["item"]
        }
        return {
            **{name: known[name](raw[name]) for name in users},
            "behavior_item_ids": raw["behavior_item_ids"],
            "behavior_category": behaviors,
            "candidate_item_ids": raw["candidate_item_ids"],
            **candidates,
            "candidate_category_matches": feature_matches(
                behaviors,
                raw["behavior_item_ids"] != 0,
                candidates["candidate_category"],
                known["item_category"].size,
            ),
        }

    return RankingModule(
        model=world.model,
        item_table=world.item_table,
        features=single_categories(**PRESET),
        learned=world.vocabularies,
        max_history=None,
        transform=transform,
        raw_feature_spec={
            name: tf.io.VarLenFeature(tf.int64)
            for name in (
                *users,
                "behavior_item_ids",
                "behavior_category",
                "candidate_item_ids",
                *(f"candidate_{name}" for name in PRESET["item"]),
            )
        },
    )


def test_examples_meet_few_lengths_of_history_as_in_rank(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorFlow keeps a compiled product for each length it has seen."""
    module = untruncated_examples(world)
    score = module._probabilities
    seen = set()

    def seeing(inputs: dict[str, Any]) -> Any:
        seen.add(inputs["behavior_mask"].shape[1])
        return score(inputs)

    monkeypatch.setattr(module, "_probabilities", seeing)
    (request,) = make_requests(world.item_table, 1, seed=3)
    rng = np.random.default_rng(3)
    for length in (0, 1, 99, 100, 101, 250, 399, 5_001, 5_499):
        places = rng.integers(0, world.item_table.num_items, length)
        request["behavior_item_ids"] = world.item_table.item_ids[places]
        request["behavior_category"] = world.item_table.features["category"][
            places + 1
        ]
        by_example = module.serve_examples(tf.constant([to_example(request)]))
        by_ids = module.rank(
            **{k: tf.constant(v) for k, v in rank_inputs([request]).items()}
        )
        np.testing.assert_array_equal(
            by_example["click_probability"], by_ids["click_probability"]
        )
        with monkeypatch.context() as as_it_comes:
            as_it_comes.setattr(ranking_module, "in_few_lengths", dict)
            as_it_comes.setattr(module, "_probabilities", score)
            np.testing.assert_array_equal(
                by_example["click_probability"],
                module.serve_examples(tf.constant([to_example(request)]))[
                    "click_probability"
                ],
            )
    assert seen == {0, 100, 200, 300, 400, 5_500}
