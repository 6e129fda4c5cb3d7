"""Metrics against pair-by-pair oracles; the bootstrap against a simple one."""

from __future__ import annotations

import math
import pickle
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muse_keras.metrics import per_group_auc
from tests.tfx_pipeline.evaluation import metric_oracles as oracle
from tfx_pipeline.evaluation import bootstrap
from tfx_pipeline.evaluation import ranking_metrics as ranking_metrics_lib
from tfx_pipeline.evaluation.ranking_metrics import (
    METRICS,
    Summary,
    ranking_metrics,
)

pytestmark = pytest.mark.tf


def interval(users, **options):
    return bootstrap.mean_interval(users.auc, users.weight, **options)


def compute(users, labels, scores, samples=20):
    return ranking_metrics(
        np.array(users, np.int64),
        np.array(labels, np.float32),
        np.array(scores, np.float64),
        samples,
    )


_IMPRESSIONS = st.lists(
    st.tuples(
        st.sampled_from([-(2**63), -1, 0, 5, 2**63 - 1]),
        st.integers(0, 1),
        # Few values, so that ties are common; both ends of the range.
        st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0]),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(_IMPRESSIONS)
def test_metrics_are_their_definitions(impressions):
    users, labels, scores = map(list, zip(*impressions, strict=True))
    found = compute(users, labels, scores)
    assert tuple(found) == METRICS
    for name, value in oracle.metrics(users, labels, scores).items():
        assert found[name] == pytest.approx(
            value, rel=1e-9, abs=1e-12, nan_ok=True
        ), name


def test_literal_values():
    found = compute(
        users=[1, 1, 1, 2, 2, 3, 3],
        labels=[1, 0, 0, 1, 0, 1, 1],
        scores=[0.8, 0.8, 0.2, 0.1, 0.9, 0.5, 0.5],
    )
    # User 1: one win and one tie of 2 pairs; user 2 wrong; user 3 has none.
    assert found["gauc"] == pytest.approx((3 * 0.75 + 2 * 0.0) / 5)
    assert found["gauc_users"] == 2
    assert found["calibration"] == pytest.approx(3.8 / 4)
    assert found["click_rate"] == pytest.approx(4 / 7)


def test_lists_by_hand():
    found = compute(
        users=[1] * 12 + [2] * 3,
        labels=[0] * 11 + [1] + [0, 1, 1],
        scores=[0.9 - i / 20 for i in range(12)] + [0.5, 0.5, 0.1],
    )
    # User 1: the click is the last of 12. User 2: a tie of two, then a click.
    second = (0.5 + 0.5 / math.log2(3) + 0.5) / (1 + 1 / math.log2(3))
    assert found["ndcg_10"] == pytest.approx(second / 2)
    assert found["mrr"] == pytest.approx((1 / 12 + 0.75) / 2)
    assert found["recall_10"] == pytest.approx((0 + 1) / 2)


def test_the_interval_of_the_normalized_entropy_is_over_users():
    users, clicks, scores = toy_impressions(600, 40)
    found = compute(users, clicks, scores)
    losses = [
        -math.log(s if c else 1 - s)
        for c, s in zip(clicks, np.clip(scores, 1e-7, 1), strict=True)
    ]
    half = oracle.entropy_half_width(users.tolist(), losses, clicks.tolist())
    value = found["normalized_entropy"]
    assert found["normalized_entropy_lower"] == pytest.approx(
        value - half, rel=1e-4
    )
    assert found["normalized_entropy_upper"] == pytest.approx(
        value + half, rel=1e-4
    )
    # Resampling users spreads it as widely.
    rng = np.random.default_rng(0)
    rows = [np.flatnonzero(users == user) for user in np.unique(users)]
    drawn = []
    for _ in range(400):
        chosen = [rows[i] for i in rng.integers(0, len(rows), len(rows))]
        some = np.concatenate(chosen)
        drawn.append(
            oracle.normalized_entropy(
                [losses[i] for i in some], clicks[some].tolist()
            )
        )
    assert 1.96 * np.std(drawn) == pytest.approx(half, rel=0.2)


def test_a_constant_score_at_the_rate_is_calibrated_and_knows_nothing():
    clicks = np.tile([1, 0, 0, 0], 50)
    found = compute(np.repeat(np.arange(50), 4), clicks, np.full(200, 0.25))
    assert found["normalized_entropy"] == pytest.approx(1.0)
    assert found["calibration_error"] == pytest.approx(0.0)
    twice = compute(np.repeat(np.arange(50), 4), clicks, np.full(200, 0.5))
    assert twice["calibration_error"] == pytest.approx(0.25)
    assert twice["calibration"] == pytest.approx(2.0)


def test_without_a_user_of_both_classes_there_is_no_gauc():
    found = compute([1, 2, 2], [1, 0, 0], [0.5, 0.4, 0.3])
    for name in ("gauc", "gauc_lower", "gauc_upper"):
        assert math.isnan(found[name])
    assert found["gauc_users"] == 0
    assert found["auc"] == 1.0


def test_without_impressions_there_is_no_number():
    found = compute([], [], [])
    assert found["impressions"] == found["gauc_users"] == 0
    assert math.isnan(found["ndcg_10"]) and math.isnan(found["auc"])


def test_order_and_monotone_scores_do_not_matter():
    rng = np.random.default_rng(1)
    users = rng.integers(0, 9, 200)
    labels = rng.integers(0, 2, 200)
    scores = rng.random(200).round(1)
    first = compute(users, labels, scores)
    order = rng.permutation(200)
    again = compute(users[order], labels[order], scores[order])
    assert again == pytest.approx(first)
    squeezed = compute(users, labels, scores**3)
    for name in ("gauc", "gauc_lower", "gauc_upper", "auc"):
        assert squeezed[name] == pytest.approx(first[name])


def toy_impressions(impressions, users, seed=4):
    """Scores are few float32, so that many tie."""
    rng = np.random.default_rng(seed)
    scores = rng.beta(1, 9, impressions).astype(np.float32).round(3)
    return (
        rng.integers(0, users, impressions),
        rng.random(impressions) < 0.1 + scores,
        scores,
    )


def summarized(users, clicks, scores, parts):
    """The summary of users who are divided among parts, as in Beam."""
    merging = ranking_metrics_lib.merging()
    accumulators, buckets = [], {}
    for part in range(parts):
        chosen = users % parts == part
        mine = users[chosen], clicks[chosen], scores[chosen]
        accumulator = merging.create_accumulator()
        accumulators.append(merging.add_input(accumulator, Summary.of(*mine)))
        for bucket in ranking_metrics_lib.score_buckets(*mine[1:]):
            number = ranking_metrics_lib.bucket_of(bucket)
            buckets.setdefault(number, []).append(bucket)
    for counts in buckets.values():
        merged = ranking_metrics_lib.merge_counts(counts)
        ranks = ranking_metrics_lib.ranks_of(*merged)
        accumulators.append([Summary(ranks=(ranks,))])
    merged = merging.merge_accumulators(reversed(accumulators))
    return merging.extract_output(merged)


@pytest.mark.parametrize("parts", [2, 7, 90])
def test_no_division_of_the_users_changes_a_bit(parts):
    impressions = toy_impressions(20_000, 400)
    found = summarized(*impressions, parts).metrics(20)
    assert found == ranking_metrics(*impressions, 20)
    users, clicks, scores = impressions
    everyone = per_group_auc(clicks, scores, np.zeros_like(users))
    of_users = per_group_auc(clicks, scores, users)
    assert found["auc"] == everyone.weighted_mean
    assert found["gauc"] == pytest.approx(of_users.weighted_mean, rel=1e-15)
    assert (found["gauc_lower"], found["gauc_upper"]) == pytest.approx(
        interval(of_users, samples=20), rel=1e-12
    )


def test_a_summary_does_not_grow_with_impressions():
    few, many = (
        len(pickle.dumps(summarized(*toy_impressions(count, 300), 3)))
        for count in (20_000, 400_000)
    )
    assert many < 1.1 * few


def test_the_interval_of_many_users_needs_only_a_sample(monkeypatch):
    impressions = toy_impressions(100_000, 20_000)
    exact = ranking_metrics(*impressions, 400)
    monkeypatch.setattr(ranking_metrics_lib, "MAX_USERS", 2_000)
    summary = summarized(*impressions, 5)
    assert len(summary.sample[0]) == 2_000 < summary.users
    found = summary.metrics(400)
    for name in METRICS:
        if not name.endswith(("_lower", "_upper")):
            assert found[name] == exact[name]
    # The recall at 10 of five impressions is 1 but for a few users.
    for name in ("gauc", "ndcg_10", "mrr"):
        low, high = f"{name}_lower", f"{name}_upper"
        widths = [of[high] - of[low] for of in (found, exact)]
        assert widths[0] == pytest.approx(widths[1], rel=0.15)
        assert found[low] < found[name] < found[high]


def test_a_bucket_of_scores_has_few_float32():
    bits = np.arange(0, 1 << 23, 1 << 18, dtype=np.uint32)
    scores = (bits | np.float32(0.25).view(np.uint32)).view(np.float32)
    numbers = {
        ranking_metrics_lib.bucket_of(bucket)
        for bucket in ranking_metrics_lib.score_buckets(scores > 2, scores)
    }
    # From 0.25 to 0.5 there are 2 ** 23.
    assert len(numbers) == 8


def toy_users(count=60, seed=3):
    """Per-user AUCs through the public function."""
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(count), rng.integers(2, 9, count))
    labels = rng.integers(0, 2, len(users))
    return per_group_auc(labels, rng.random(len(users)), users)


def simple_bootstrap(users, samples, level, seed):
    """Another generator, another loop, a sorted list: the same statistic."""
    generator = random.Random(seed)
    pairs = list(zip(users.auc.tolist(), users.weight.tolist(), strict=True))
    values = sorted(
        oracle.weighted(generator.choices(pairs, k=len(pairs)))
        for _ in range(samples)
    )
    tail = (1 - level) / 2
    return (
        values[int(tail * (samples - 1))],
        values[math.ceil((1 - tail) * (samples - 1))],
    )


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_interval_is_that_of_a_simple_bootstrap(level):
    users = toy_users()
    found = interval(users, samples=4000, level=level)
    wanted = simple_bootstrap(users, 4000, level, seed=8)
    width = wanted[1] - wanted[0]
    assert found == pytest.approx(wanted, abs=0.08 * width)
    assert found[0] < users.weighted_mean < found[1]


def test_interval_is_deterministic_and_depends_on_the_seed():
    users = toy_users()
    first = interval(users, samples=50)
    np.random.seed(5)
    assert interval(users, samples=50) == first
    assert interval(users, samples=50, seed=1) != first


def test_interval_narrows_with_more_users():
    few, many = (
        np.subtract(*interval(toy_users(count), samples=400))
        for count in (50, 1250)
    )
    # Five times narrower in expectation.
    assert 3.5 < few / many < 7


def test_interval_without_users_or_of_one():
    one_class = per_group_auc([1], [0.5], [3])
    assert all(map(math.isnan, interval(one_class)))
    one = per_group_auc([1, 0], [0.5, 0.5], [3, 3])
    assert interval(one, samples=5) == (0.5, 0.5)
