"""Calibration, attention by similarity and the data summary, by hand."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.tf


def test_calibration_groups_by_score():
    from muse_tools.report import scores

    rng = np.random.default_rng(5)
    predicted = rng.random(1003)
    clicks = (rng.random(1003) < predicted**2).astype(int)
    rows = scores.calibration(clicks, predicted)
    assert len(rows) == 10
    assert sum(row["impressions"] for row in rows) == 1003
    pairs = sorted(zip(predicted.tolist(), clicks.tolist(), strict=True))
    start = 0
    for row in rows:
        part = pairs[start : start + row["impressions"]]
        start += row["impressions"]
        assert row["predicted"] == pytest.approx(np.mean([p for p, _ in part]))
        rate = np.mean([click for _, click in part])
        assert row["observed"] == pytest.approx(rate)
        # Both ends of a Wilson interval p: (rate - p)^2 = z^2 p (1 - p) / n.
        for end in (row["lower"], row["upper"]):
            left = (rate - end) ** 2
            right = 1.959964**2 * end * (1 - end) / len(part)
            assert left == pytest.approx(right, abs=1e-9)
        assert row["lower"] <= rate <= row["upper"]


def test_calibration_of_few_impressions():
    from muse_tools.report import scores

    rows = scores.calibration(np.array([0, 1]), np.array([0.7, 0.2]))
    assert [(row["predicted"], row["observed"]) for row in rows] == [
        (0.2, 1.0),
        (0.7, 0.0),
    ]


def test_attention_of_a_tier_is_over_an_equal_share():
    from muse_tools.report import scores

    # Tiers of width 0.5. First candidate: three behaviors, second: one,
    # third: none.
    given, equal = scores.attention_by_tier(
        np.array([[4, 2, 7, -1], [3, -1, -1, -1], [-1, -1, -1, -1]]),
        np.array([[1.0, 0.5, -0.2, 0.0], [0.1, 0, 0, 0], [0, 0, 0, 0]]),
        np.array([[0.6, 0.3, 0.1, 9.0], [1.0, 9, 9, 9], [9, 9, 9, 9]]),
        num_tiers=4,
    )
    np.testing.assert_allclose(given, [0.0, 0.1, 1.0, 0.9])
    np.testing.assert_allclose(equal, [0.0, 1 / 3, 1.0, 2 / 3])


def test_summary_is_that_of_the_requests(tmp_path):
    import tensorflow_data_validation as tfdv

    from muse_tools.report import summary
    from tests.tfx_pipeline.training import toy_training

    _, requests = toy_training.write_requests(tmp_path / "requests", 80, 1)
    statistics = tfdv.generate_statistics_from_tfrecord(
        str(tmp_path / "requests" / "part-0.gz")
    )
    folder = tmp_path / "statistics" / "Split-train"
    folder.mkdir(parents=True)
    (folder / "FeatureStats.pb").write_bytes(statistics.SerializeToString())
    found = summary.of_statistics(tmp_path / "statistics")
    lengths = [len(one["behavior_item_ids"]) for one in requests]
    clicks = [click for one in requests for click in one["clicks"]]
    assert 0 in lengths
    assert found == {
        "train": {
            "requests": 80,
            "impressions": len(clicks),
            "click_rate": pytest.approx(np.mean(clicks)),
            "mean_history": pytest.approx(np.mean(lengths)),
            # From quantiles of the lengths.
            "median_history": pytest.approx(np.median(lengths), abs=1.0),
            "longest_history": max(lengths),
        }
    }


def test_an_export_is_asked_by_the_names_of_its_inputs(tmp_path):
    import tensorflow as tf

    from muse_tools.report import scores
    from serving.client import RankRequest, make_example
    from tests.serving import toy_muse

    model = toy_muse.export_toy_muse(
        tmp_path, user=("age",), behavior=("brand",)
    )
    rng = np.random.default_rng(3)
    file = tmp_path / "part.gz"
    requests, clicks = [], []
    with tf.io.TFRecordWriter(str(file), options="GZIP") as writer:
        for user, length in enumerate((5, 0, 9, 2), 1):
            items = rng.integers(1, 20, length)
            request = RankRequest(
                user,
                rng.integers(1, 20, 1 + length),
                items,
                {"age": user},
                {"brand": items % 5},
            )
            requests.append(request)
            clicks.append(rng.integers(0, 2, 1 + length))
            example = tf.train.Example.FromString(make_example(request))
            example.features.feature["clicks"].int64_list.value.extend(
                clicks[-1].tolist()
            )
            writer.write(example.SerializeToString())
    found = scores.score_models({"toy": model}, [file], tmp_path / "kept.npz")
    np.testing.assert_array_equal(found["clicks"], np.concatenate(clicks))
    np.testing.assert_allclose(
        found["toy"],
        np.concatenate([toy_muse.expected_score(r) for r in requests]),
        rtol=1e-5,
    )
    tiers = scores.tier_histograms(model, [file], requests=100)
    counts = np.array(
        [
            len(toy_muse.expected_retrieved(request, candidate))
            for request in requests
            for candidate in request.candidate_item_ids
        ]
    )
    clicked = np.concatenate(clicks) > 0
    for name, rows in (("clicked", clicked), ("not_clicked", ~clicked)):
        mean = counts[rows].mean()
        assert tiers[name] == pytest.approx([mean] * toy_muse.TIERS)
