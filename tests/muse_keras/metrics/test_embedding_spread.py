"""The spread of embeddings against all pairs, one by one."""

import keras
import numpy as np
import pytest
from ranker_testing.gradients import numpy

from muse_keras.metrics import EmbeddingSpread


def unit(rng, *shape):
    values = rng.normal(size=shape) + 0.5
    values /= np.linalg.norm(values, axis=-1, keepdims=True)
    return values.astype("float32")


def result(metric):
    return {name: float(numpy(x)) for name, x in metric.result().items()}


def test_all_pairs_of_all_updates():
    rng = np.random.default_rng(0)
    vectors = unit(rng, 40, 5)
    metric = EmbeddingSpread(5)
    with_gaps = np.insert(vectors, [3, 30], 0.0, axis=0)
    for part in np.split(with_gaps, [10, 11, 25]):
        metric.update_state(part)
    cosines = [
        float(a @ b)
        for i, a in enumerate(vectors)
        for j, b in enumerate(vectors)
        if i != j
    ]
    variance = vectors.astype("float64").var(axis=0)
    expected = {
        "mean_pairwise_cosine": np.mean(cosines),
        "min_dimension_variance": variance.min(),
        "mean_dimension_variance": variance.mean(),
    }
    actual = result(metric)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name] == pytest.approx(value, abs=2e-6), name
    metric.reset_state()
    assert not any(result(metric).values())


def test_collapse_shows():
    metric = EmbeddingSpread(4)
    metric.update_state(np.tile(np.array([[0.5] * 4], "float32"), (1000, 1)))
    found = result(metric)
    assert found["mean_pairwise_cosine"] == pytest.approx(1.0, abs=1e-5)
    assert found["min_dimension_variance"] < 1e-6
    # One dimension dead, all others alive.
    metric = EmbeddingSpread(4)
    vectors = unit(np.random.default_rng(1), 1000, 4) - 0.3
    vectors[:, 2] = 0.0
    metric.update_state(vectors)
    found = result(metric)
    assert found["min_dimension_variance"] == 0.0
    assert found["mean_dimension_variance"] > 0.01


def test_config():
    stored = keras.saving.serialize_keras_object(EmbeddingSpread(6))
    assert keras.saving.deserialize_keras_object(stored).dim == 6
    with pytest.raises(ValueError, match="`dim` must be a positive"):
        EmbeddingSpread(0)
