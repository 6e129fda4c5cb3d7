"""Features of every kind and two labels, through every signature."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.serving.export.kinds import (
    DECLARED,
    FEATURES,
    MAX_HISTORY,
    Kinds,
    batched,
    example_values,
    expected_scores,
    make_requests,
)
from tests.serving.export.world import to_example

tf = pytest.importorskip("tensorflow")

from schemas.columns import Feature  # noqa: E402
from serving.export import export_saved_model, kernel_report  # noqa: E402
from serving.export.request import (  # noqa: E402
    in_few_lengths,
    prefetch_inputs,
    rank_cached_inputs,
    rank_inputs,
)
from serving.export.words import pack_numbers, unpack_numbers  # noqa: E402

pytestmark = pytest.mark.once

LABELS = ("click_probability", "buy_probability")
NEW = 4_000_000_001


def parts_of(
    inputs: dict[str, np.ndarray], specs: dict[str, Any]
) -> dict[str, np.ndarray]:
    return {name: inputs[name] for name in specs}


def test_rank_is_the_model_on_encodings_by_definition(kinds: Kinds) -> None:
    requests = make_requests(kinds.item_table, 15, seed=6)
    answer = kinds.call("rank", **batched(requests))
    assert set(answer) == set(LABELS)
    for row, request in enumerate(requests):
        expected = expected_scores(kinds, request)
        count = len(expected)
        for place, label in enumerate(LABELS):
            np.testing.assert_allclose(
                answer[label][row, :count], expected[:, place], atol=3e-6
            )
            assert not answer[label][row, count:].any()
            assert np.std(answer[label]) > 0.05


@pytest.mark.parametrize(
    "name",
    [n for n in rank_inputs(FEATURES) if n not in ("user_id",)],
)
def test_every_input_counts(kinds: Kinds, name: str) -> None:
    requests = make_requests(kinds.item_table, 15, seed=7)
    inputs = batched(requests)
    before = kinds.call("rank", **inputs)
    inputs[name] = np.roll(inputs[name], 1, axis=0)
    after = kinds.call("rank", **inputs)
    for label in LABELS:
        assert np.abs(after[label] - before[label]).max() > 1e-3


def test_what_is_for_training_alone_is_no_input(kinds: Kinds) -> None:
    hidden = {"context_slots", "candidate_badges", "candidate_position"}
    assert not hidden & set(rank_inputs(FEATURES))
    manifest = kinds.export.manifest
    assert not hidden & set(manifest["signatures"]["rank"]["inputs"])


def test_missing_is_scored(kinds: Kinds) -> None:
    request = make_requests(kinds.item_table, 1, seed=8)[0]
    for name, values in request.items():
        if not name.endswith(("_id", "_ids")):
            request[name] = np.full_like(
                values, np.nan if values.dtype.kind == "f" else 0
            )
    answer = kinds.call("rank", **batched([request]))
    expected = expected_scores(kinds, request)
    for place, label in enumerate(LABELS):
        np.testing.assert_allclose(
            answer[label][0], expected[:, place], atol=3e-6
        )


@pytest.mark.parametrize("by_rows", [False, True])
def test_cached_is_bit_for_bit_rank(kinds: Kinds, by_rows: bool) -> None:
    requests = make_requests(kinds.item_table, 12, seed=9)
    for request in requests:
        inputs = batched([request])
        history = parts_of(inputs, prefetch_inputs(FEATURES))
        if by_rows:
            ids = history.pop("behavior_item_ids")
            found = kinds.call("resolve_items", item_ids=ids[0])
            rows = np.where(ids[0] == 0, -1, found["row"])
            stamp = kinds.export.manifest["user_cache"]["table_stamp"]
            stored = kinds.call(
                "prefetch_rows",
                **history,
                behavior_rows=rows[None].astype(np.int32),
                table_stamp=np.array([stamp]),
            )
        else:
            stored = kinds.call("prefetch", **history)
        length = np.count_nonzero(request["behavior_item_ids"])
        assert stored["cached_length"].tolist() == [min(length, MAX_HISTORY)]
        # Rank sees the newest behaviors alone, so that shapes are the same.
        answer = kinds.call(
            "rank_cached", **parts_of(inputs, rank_cached_inputs(FEATURES))
        )
        assert answer["cache_hit"].all()
        expected = kinds.call("rank", **inputs)
        for label in LABELS:
            np.testing.assert_array_equal(answer[label], expected[label])


def test_a_miss_has_no_scores(kinds: Kinds) -> None:
    inputs = batched(make_requests(kinds.item_table, 2, seed=10))
    inputs["user_id"][:] = 987_654_321
    answer = kinds.call(
        "rank_cached", **parts_of(inputs, rank_cached_inputs(FEATURES))
    )
    assert not answer["cache_hit"].any()
    for label in LABELS:
        assert not answer[label].any()


def test_explain_has_all_labels(kinds: Kinds) -> None:
    inputs = batched(make_requests(kinds.item_table, 6, seed=11))
    shown, ranked = (
        kinds.call("explain", **inputs),
        kinds.call("rank", **inputs),
    )
    for label in LABELS:
        np.testing.assert_allclose(shown[label], ranked[label], atol=1e-6)


def test_examples_give_the_scores_of_rank(kinds: Kinds) -> None:
    """By the graph of Transform, with and without what is not served."""
    hidden = ("context_slots", "candidate_badges", "candidate_position")
    unserved = ("clicks", "label_buy", *hidden)
    for request in make_requests(kinds.item_table, 8, seed=12):
        expected = kinds.call("rank", **batched([request]))
        values = example_values(kinds.item_table, request)
        rng = np.random.default_rng(1)
        for name in hidden:
            one = FEATURES.learned()[name]
            count = len(request["candidate_item_ids"]) * one.raw_width
            values[name] = rng.choice([5, 7], count)
        served = {n: one for n, one in values.items() if n not in unserved}
        for given in (values, served):
            answer = kinds.call(
                "serving_default",
                examples=np.array([to_example(given)], object),
            )
            for label in LABELS:
                np.testing.assert_allclose(
                    answer[label], expected[label], atol=2e-6
                )


def upsert(kinds: Kinds, row: int, item_id: int, **changed: Any) -> Any:
    """Store an item with the vector and features of a row."""
    table = kinds.item_table
    return kinds.call(
        "upsert_items",
        item_ids=np.array([item_id]),
        embedding=table.codes[row : row + 1] / np.float32(127),
        **{
            f"item_{name}": table.features[name][row : row + 1]
            for name in FEATURES.item
        }
        | changed,
    )


def test_a_fresh_item_scores_as_one_of_the_table(kinds: Kinds) -> None:
    row = 31
    (request,) = make_requests(kinds.item_table, 1, seed=13)
    ids = request["candidate_item_ids"]
    ids[:] = kinds.item_table.item_ids[row - 1]
    embeddings = kinds.model.item_embedding.embeddings
    before = embeddings.numpy()
    changed = before.copy()
    changed[row] = before[0]  # A new id has no trained embedding.
    embeddings.assign(changed)
    expected = expected_scores(kinds, request)
    embeddings.assign(before)
    assert upsert(kinds, row, NEW)["stored"].all()
    assert not upsert(kinds, row, NEW)["stored"].any()
    ids[:] = NEW
    answer = kinds.call("rank", **batched([request]))
    for place, label in enumerate(LABELS):
        np.testing.assert_allclose(
            answer[label][0], expected[:, place], atol=3e-6
        )


@pytest.mark.parametrize(
    "change",
    [
        {"item_tags": np.array([[5, 123]])},
        {"item_price": np.array([77.0], np.float32)},
        {"item_price": np.array([np.nan], np.float32)},
        {"item_style": np.array([[1.0, -55.0]], np.float32)},
        {"item_grade": np.array([-9.0], np.float32)},
    ],
)
def test_another_value_is_stored(kinds: Kinds, change: Any) -> None:
    row = int(np.flatnonzero(kinds.item_table.features["grade"] > 0.6)[0])
    upsert(kinds, row, NEW + 1)
    assert upsert(kinds, row, NEW + 1, **change)["stored"].all()


def test_infinite_numbers_of_items_are_refused(kinds: Kinds) -> None:
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="`item_price` must be finite"
    ):
        upsert(kinds, 3, NEW + 2, item_price=np.array([np.inf], np.float32))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("user_tastes", (2, 2), "`user_tastes` must have 3 values"),
        ("user_profile", (2, 4), "`user_profile` must have 3 values"),
        ("user_age", (3,), "`user_age` must have as many rows as `user_id`"),
        ("context_themes", (2, 1), "`context_themes` must have 2 values"),
        ("context_heat", (1,), "`context_heat` must have as many rows"),
        (
            "candidate_discount",
            (2, 99),
            "`candidate_discount` must be as long as `candidate_item_ids`",
        ),
        (
            "behavior_dwell",
            (2, 99),
            "`behavior_dwell` must be as long as `behavior_item_ids`",
        ),
    ],
)
def test_wrong_shapes_are_refused_by_name(
    kinds: Kinds, name: str, shape: tuple[int, ...], message: str
) -> None:
    inputs = batched(make_requests(kinds.item_table, 2, seed=14))
    inputs[name] = np.zeros(shape, inputs[name].dtype)
    for signature, specs in (
        ("rank", rank_inputs(FEATURES)),
        ("prefetch", prefetch_inputs(FEATURES)),
        ("rank_cached", rank_cached_inputs(FEATURES)),
    ):
        if name in specs:
            with pytest.raises(tf.errors.InvalidArgumentError, match=message):
                kinds.call(signature, **parts_of(inputs, specs))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("item_tags", (1, 3), "`item_tags` must have 2 values"),
        ("item_style", (1, 1), "`item_style` must have 2 values"),
        ("item_price", (2,), "`item_price` must have as many rows"),
    ],
)
def test_wrong_shapes_of_items_are_refused_by_name(
    kinds: Kinds, name: str, shape: tuple[int, ...], message: str
) -> None:
    dtype = FEATURES.item[name.removeprefix("item_")].dtype
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        upsert(kinds, 3, NEW + 3, **{name: np.zeros(shape, dtype)})


def test_clients_read_how_many_values_there_are(kinds: Kinds) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString(
        (Path(kinds.export.path) / "saved_model.pb").read_bytes()
    )
    signatures = saved.meta_graphs[0].signature_def
    told = {
        name: [dim.size for dim in info.tensor_shape.dim]
        for name, info in {
            **signatures["rank"].inputs,
            **signatures["upsert_items"].inputs,
        }.items()
    }
    assert told["user_age"] == told["context_device"] == [-1]
    assert told["user_tastes"] == told["user_profile"] == [-1, 3]
    assert told["context_themes"] == told["item_tags"] == [-1, 2]
    assert told["candidate_discount"] == told["behavior_dwell"] == [-1, -1]
    assert told["item_price"] == [-1] and told["item_style"] == [-1, 2]
    inputs = kinds.export.manifest["signatures"]["rank"]["inputs"]
    assert inputs["user_profile"] == {"dtype": "float32", "shape": [None, 3]}
    # The graph must not believe it, or it would leave out its assertions.
    declared = kinds.loaded.signatures["rank"].structured_input_signature[1]
    assert declared["user_tastes"].shape.as_list() == [None, None]


@pytest.mark.parametrize(
    "signature", ["rank", "explain", "prefetch", "prefetch_rows", "rank_cached"]
)
def test_runs_on_a_gpu(kinds: Kinds, signature: str) -> None:
    report = kernel_report(kinds.export.path, signature)
    assert report.passed, str(report)


def test_the_manifest_has_the_declaration(kinds: Kinds) -> None:
    file = Path(kinds.export.path) / "assets.extra" / "muse_export.json"
    manifest = json.loads(file.read_text())
    assert manifest["format_version"] == 3
    assert manifest["labels"] == ["click", "buy"]
    assert manifest["schema"] == {
        "digest": DECLARED.digest(),
        "version": 1,
        "name": "kinds",
        "declaration": DECLARED.model_dump(mode="json"),
    }
    assert manifest["index_sizes"]["item_tags"] == 8
    for name in ("item_brand", "behavior_dwell"):
        wanted = len(kinds.learned[name]) + 2
        assert manifest["index_sizes"][name] == wanted > 3
    stored = manifest["variables"]
    rows = kinds.item_table.num_items + 1 + 256
    assert stored["item_features.tags"]["shape"] == [rows, 2]
    assert stored["item_features.tags"]["dtype"] == "uint16"
    assert stored["item_features.style"]["shape"] == [rows, 3]
    assert stored["item_features.price"]["dtype"] == "float32"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"item_brand": None}, "`learned` must be exactly"),
        ({"item_brand": [1]}, r"`model.item_sizes` must be .*'brand': 3"),
        ({"user_age": [1.0]}, r"`learned\['user_age'\]` must be a mean and"),
        ({"item_grade": [1.0, 0.5]}, r"\['item_grade'\]` must be rising"),
    ],
)
def test_what_was_not_learned_of_these_is_refused(
    kinds: Kinds, tmp_path: Path, change: Any, message: str
) -> None:
    learned = kinds.learned | change
    with pytest.raises(ValueError, match=message):
        export_saved_model(
            tmp_path / "1",
            model=kinds.model,
            item_table=kinds.item_table,
            features=FEATURES,
            learned={n: v for n, v in learned.items() if v is not None},
        )


def test_other_features_are_refused(kinds: Kinds, tmp_path: Path) -> None:
    parts = {
        "model": kinds.model,
        "item_table": kinds.item_table,
        "learned": kinds.learned,
    }
    with pytest.raises(ValueError, match="`features` must be given"):
        export_saved_model(tmp_path / "1", **parts)
    longer = FEATURES.item | {"style": Feature(type="vector", dim=4)}
    with pytest.raises(ValueError, match="style.*float32 with 4"):
        export_saved_model(
            tmp_path / "1",
            features=FEATURES.model_copy(update={"item": longer}),
            **parts,
        )


def test_added_behaviors_are_missing() -> None:
    filled = in_few_lengths(
        {
            "behavior_item_ids": tf.constant([[5, 6]], tf.int64),
            "behavior_dwell": tf.constant([[1.5, 0.0]]),
        }
    )
    assert filled["behavior_item_ids"].shape == (1, 100)
    assert not filled["behavior_item_ids"][0, 2:].numpy().any()
    dwell = filled["behavior_dwell"].numpy()[0]
    assert dwell[:2].tolist() == [1.5, 0.0] and np.isnan(dwell[2:]).all()


def test_numbers_of_users_are_payloads_of_words() -> None:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 1 << 32, 1000, dtype=np.uint32)
    bits[:4] = [0, 0x80000000, 0x7F800000, 0xFFFFFFFF]
    numbers = bits.view(np.float32)
    payloads = pack_numbers(tf.constant(numbers)).numpy()
    assert payloads.dtype == np.int64
    assert payloads.min() >= 0 and payloads.max() < 1 << 32
    again = unpack_numbers(tf.constant(payloads)).numpy()
    np.testing.assert_array_equal(again.view(np.uint32), bits)
