"""GAUC against counting every pair."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ranker_testing import oracles

from muse_keras.metrics import GroupAUC, per_group_auc


def impressions(seed, count=60, groups=8):
    rng = np.random.default_rng(seed)
    ids = rng.integers(-(2**63), 2**63 - 1, groups)
    ids[:2] = [np.iinfo(np.int64).min, np.iinfo(np.int64).max]
    return (
        rng.integers(0, 2, count),
        # Few values: many ties.
        (rng.integers(0, 6, count) / 7).astype("float32"),
        rng.choice(ids, count),
        rng.choice([0.0, 1.0, 0.5, 3.25], count),
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_against_every_pair(seed, weighted):
    labels, scores, groups, weights = impressions(seed)
    if not weighted:
        weights = np.ones(len(labels))
    metric = GroupAUC()
    for part in np.array_split(np.arange(len(labels)), 4):
        metric.update_state(
            labels[part],
            scores[part],
            groups[part],
            weights[part] if weighted else None,
        )
    expected = oracles.group_auc(labels, scores, groups, weights)
    np.testing.assert_allclose(metric.result(), expected, rtol=1e-12)


def test_neighboring_ids_are_different_groups():
    """In float64 they would be one group."""
    ids = np.array([2**62, 2**62 + 1, 2**62, 2**62 + 1])
    result = per_group_auc([1, 0, 0, 1], [0.9, 0.8, 0.1, 0.7], ids)
    assert result.group_ids.tolist() == [2**62, 2**62 + 1]
    assert result.auc.tolist() == [1.0, 0.0]


def test_close_predictions_are_no_ties():
    close = np.array([0.5, np.nextafter(0.5, 1.0)])
    assert per_group_auc([0, 1], close, [1, 1]).auc.tolist() == [1.0]
    half = close.astype("float32")
    assert per_group_auc([0, 1], half, [1, 1]).auc.tolist() == [0.5]


def test_users_of_one_class_are_skipped_and_counted():
    result = per_group_auc([1, 1, 0, 1, 0], [1, 2, 3, 4, 4], [1, 1, 2, 3, 3])
    assert result.group_ids.tolist() == [3]
    assert result.weight.tolist() == [2.0]
    assert result.num_skipped == 2


def test_nothing_to_score_is_nan():
    metric = GroupAUC()
    assert np.isnan(metric.result())
    metric.update_state([1, 1], [0.1, 0.2], [5, 5])
    assert np.isnan(metric.result())
    metric.update_state([0], [0.0], [5])
    assert metric.result() == 1.0
    metric.reset_state()
    assert np.isnan(metric.result())


def test_backend_tensors_and_any_shape():
    labels, scores, groups, _ = impressions(1)
    flat, boxed = GroupAUC(), GroupAUC()
    flat.update_state(labels, scores, groups)
    boxed.update_state(
        keras.ops.convert_to_tensor(labels.reshape(6, 10)),
        keras.ops.convert_to_tensor(scores.reshape(6, 10)),
        groups.reshape(6, 10),
    )
    assert flat.result() == boxed.result()


def test_merging_is_the_same_as_one_metric():
    parts = [impressions(seed) for seed in range(3)]
    one, many = GroupAUC(), [GroupAUC() for _ in parts]
    for part, metric in zip(parts, many, strict=True):
        one.update_state(*part)
        metric.update_state(*part)
    many[0].merge_state(many[1:])
    assert many[0].result() == one.result()


def test_a_million_impressions_of_many_users():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 100_000, 1_000_000)
    labels = (rng.random(groups.size) < 0.1).astype("int8")
    scores = rng.random(groups.size).astype("float32")
    result = per_group_auc(labels, scores, groups)
    assert result.weighted_mean == pytest.approx(0.5, abs=3e-3)
    group = result.group_ids[17]
    mine = groups == group
    expected = oracles.group_auc(
        labels[mine], scores[mine], groups[mine], np.ones(mine.sum())
    )
    assert result.auc[17] == pytest.approx(expected, rel=1e-9)


def test_config():
    metric = GroupAUC(name="gauc")
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(metric)
    )
    assert isinstance(again, GroupAUC) and again.name == "gauc"


@pytest.mark.parametrize(
    "arrays, message",
    [
        (([1, 0], [0.1], [1, 1]), "`y_pred` must have the shape"),
        (([1, 2], [0.1, 0.2], [1, 1]), "`y_true` must be 0 or 1"),
        (([1, 0], [0.1, np.nan], [1, 1]), "`y_pred` must not be NaN"),
        (([1, 0], [0.1, 0.2], [1.0, 1.0]), "`group_ids` must be integers"),
        (([1, 0], [0.1, 0.2], [1, 1], [1, -1]), "`sample_weight` must be"),
        (([1, 0], [0.1, 0.2]), "`group_ids` must be given"),
    ],
)
def test_errors_name_the_argument(arrays, message):
    with pytest.raises(ValueError, match=message):
        GroupAUC().update_state(*arrays)


@pytest.mark.tf
def test_a_compiled_function_is_refused_with_advice():
    import tensorflow as tf

    metric = GroupAUC()

    @tf.function
    def update(values):
        metric.update_state(values, values, values)

    with pytest.raises(ValueError, match="result of `predict`"):
        update(tf.constant([1.0]))
