"""`rank_cached` answers what `rank` answers, from the device's memory."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.export import kernel_report
from serving.export.kernel_report import METADATA
from tests.serving.export.world import (
    MAX_HISTORY,
    World,
    make_requests,
    pad,
    rank_inputs,
)

tf = pytest.importorskip("tensorflow")

SIGNATURES = (
    "prefetch",
    "prefetch_rows",
    "resolve_items",
    "rank_cached",
    "user_cache",
)
STRANGER = 987_654_321


def history_of(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k: v for k, v in inputs.items() if k != "candidate_item_ids"}


def cached(world: World, inputs: dict[str, np.ndarray]) -> Any:
    return world.call(
        "rank_cached",
        user_id=inputs["user_id"],
        candidate_item_ids=inputs["candidate_item_ids"],
    )


def same_as_rank(world: World, inputs: dict[str, np.ndarray]) -> None:
    """Prefetch, rank and compare, one request after the other."""
    for row in range(len(inputs["user_id"])):
        one = {name: value[row : row + 1] for name, value in inputs.items()}
        stored = world.call("prefetch", **history_of(one))
        real = np.count_nonzero(one["behavior_item_ids"])
        assert stored["cached_length"].tolist() == [min(real, MAX_HISTORY)]
        answer = cached(world, one)
        assert answer["cache_hit"].all()
        assert answer["generation"] == stored["generation"] > 0
        np.testing.assert_allclose(
            answer["click_probability"],
            world.call("rank", **one)["click_probability"],
            atol=1e-6,
        )


@pytest.mark.parametrize("left", [False, True])
def test_equals_rank(world: World, left: bool) -> None:
    requests = make_requests(world.item_table, 25, seed=11)
    same_as_rank(world, rank_inputs(requests, left=left, extra=3))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_equals_rank_wherever_padding_is(world: World, data: Any) -> None:
    table = world.item_table
    length = data.draw(st.integers(0, 20))
    ids = st.one_of(
        st.just(0), st.just(4242), st.sampled_from(table.item_ids[:60].tolist())
    )
    few = st.sampled_from([0, 11, -12, 13, 777])
    inputs = {
        "user_id": np.array([data.draw(st.integers(-(2**63) + 1, 2**63 - 1))]),
        **{
            f"user_{name}": np.array([data.draw(few)])
            for name in world.features["user"]
        },
        "behavior_item_ids": np.array(
            [data.draw(st.lists(ids, min_size=length, max_size=length))],
            np.int64,
        ),
        "behavior_category": np.array(
            [data.draw(st.lists(few, min_size=length, max_size=length))],
            np.int64,
        ),
        "candidate_item_ids": np.array([[0, *table.item_ids[55:65]]]),
    }
    same_as_rank(world, inputs)


def test_users_of_a_batch_have_histories_of_their_own(world: World) -> None:
    requests = make_requests(world.item_table, 3, seed=12)
    inputs = rank_inputs(requests)
    world.call("prefetch", **history_of(inputs))
    inputs["user_id"][1] = STRANGER
    answer = cached(world, inputs)
    assert answer["cache_hit"].tolist() == [True, False, True]
    expected = world.call("rank", **inputs)["click_probability"]
    expected[1] = 0
    np.testing.assert_allclose(answer["click_probability"], expected, atol=1e-6)
    assert answer["generation"][1] == 0


def test_a_miss_is_no_error(world: World) -> None:
    inputs = rank_inputs(make_requests(world.item_table, 2, seed=13))
    inputs["user_id"][:] = STRANGER
    before = world.call("user_cache", user_id=inputs["user_id"])
    answer = cached(world, inputs)
    assert not answer["cache_hit"].any()
    assert not answer["click_probability"].any()
    assert (
        answer["click_probability"].shape == inputs["candidate_item_ids"].shape
    )
    after = world.call("user_cache", user_id=inputs["user_id"])
    assert after["cached_length"].tolist() == [-1, -1]
    assert (after["misses"] - before["misses"]).tolist() == [2, 2]


def rows_request(
    world: World, inputs: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the inputs of `prefetch_rows` that say the same."""
    ids = inputs["behavior_item_ids"]
    resolved = world.call("resolve_items", item_ids=ids.ravel())
    rows = resolved["row"].reshape(ids.shape)
    stamp = np.unique(resolved["table_stamp"]) if ids.size else np.array([1])
    assert len(stamp) == 1
    history = history_of(inputs)
    del history["behavior_item_ids"]
    return history | {
        "behavior_rows": np.where(ids == 0, -1, rows).astype(np.int32),
        "table_stamp": np.repeat(stamp, len(ids)),
    }


def test_rows_that_were_resolved_before_store_the_same(world: World) -> None:
    inputs = rank_inputs(
        make_requests(world.item_table, 12, seed=14), left=True, extra=2
    )
    expected = world.call("rank", **inputs)["click_probability"]
    request = rows_request(world, inputs)
    assert (request["behavior_rows"] == 0).any()
    for row in range(12):
        one = {name: value[row : row + 1] for name, value in request.items()}
        stored = world.call("prefetch_rows", **one)
        assert stored["generation"][0] > 0
        answer = cached(world, {k: v[row : row + 1] for k, v in inputs.items()})
        np.testing.assert_allclose(
            answer["click_probability"], expected[row : row + 1], atol=1e-6
        )


def test_rows_of_another_table_are_refused(world: World) -> None:
    inputs = rank_inputs(make_requests(world.item_table, 2, seed=15))
    request = rows_request(world, inputs)
    request["table_stamp"][1] += 1
    with pytest.raises(tf.errors.InvalidArgumentError, match="table_stamp"):
        world.call("prefetch_rows", **request)
    assert not cached(world, inputs)["cache_hit"].any()


def test_wrong_sizes_are_refused(world: World) -> None:
    inputs = history_of(
        rank_inputs(make_requests(world.item_table, 2, seed=16))
    )
    for name, wrong in (
        ("user_profile_2", np.zeros(3, np.int64)),
        ("behavior_category", np.zeros((2, 1), np.int64)),
        ("behavior_category", np.zeros((3, 14), np.int64)),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=name):
            world.call("prefetch", **{**inputs, name: wrong})


@pytest.mark.parametrize("signature", SIGNATURES)
def test_runs_on_a_gpu(world: World, signature: str) -> None:
    report = kernel_report(world.export.path, signature)
    assert report.passed, str(report)
    on_host = {u.op for u in report.uses if u.problem and u.kind == METADATA}
    # One number without a request's values: the time.
    asks_for_it = signature in ("prefetch", "prefetch_rows", "user_cache")
    assert ("Timestamp" in on_host) == asks_for_it


def test_writes_count_as_results(world: World) -> None:
    """The report would also pass if it did not look at the writes."""
    for signature, op in (
        ("prefetch", "ResourceScatterUpdate"),
        ("rank_cached", "ResourceScatterMax"),
    ):
        uses = kernel_report(world.export.path, signature).uses
        assert {u.kind for u in uses if u.op == op} == {"data"}


def test_is_not_in_the_checkpoint_and_starts_empty(world: World) -> None:
    path = Path(world.export.path)
    saved = tf.train.list_variables(str(path / "variables/variables"))
    names = [name for name, _ in saved]
    assert any("item_features" in name for name in names)
    assert not [name for name in names if "cached/" in name]
    fresh = tf.saved_model.load(str(path))
    known = fresh.signatures["user_cache"](tf.constant([1], tf.int64))
    for name in ("occupied", "hits", "prefetches"):
        assert known[name].numpy().tolist() == [0]
    inputs = rank_inputs(make_requests(world.item_table, 1, seed=17))
    world.call("prefetch", **history_of(inputs))
    assert cached(world, inputs)["cache_hit"].all()
    # Each loaded copy has a cache of its own.
    other = fresh.signatures["rank_cached"](
        user_id=tf.constant(inputs["user_id"]),
        candidate_item_ids=tf.constant(inputs["candidate_item_ids"]),
    )
    assert not other["cache_hit"].numpy().any()


def test_the_manifest_tells_the_memory(world: World) -> None:
    cache = world.export.manifest["user_cache"]
    assert cache["users"] == 16 and cache["max_length"] == 1100
    variables = world.export.manifest["variables"]
    assert cache["bytes"] == sum(
        size["bytes"]
        for name, size in variables.items()
        if name.startswith("user_cache.")
    )
    assert "16 users of up to 1,100" in world.export.memory_summary()
    stamp = world.call("resolve_items", item_ids=np.array([1]))["table_stamp"]
    assert stamp.tolist() == [cache["table_stamp"]]


def test_long_histories_span_chunks() -> None:
    """More behaviors than a chunk, of users of different lengths."""
    from tests.serving.export.test_user_cache import Cache

    cache = Cache()
    rows = [list(range(650)), [], list(range(513)), [1]]
    cache.put([1, 2, 3, 4], rows)
    found = cache.read(np.array([1, 2, 3, 4], np.int64))
    lengths = found.mask.numpy().sum(1)
    expected = pad([np.array(r, np.int64) for r in rows])
    for index, length in enumerate(lengths):
        if found.hit.numpy()[index]:
            assert length == len(rows[index])
            np.testing.assert_array_equal(
                found.rows.numpy()[index, :length], expected[index, :length]
            )
    assert found.hit.numpy().sum() >= 3
