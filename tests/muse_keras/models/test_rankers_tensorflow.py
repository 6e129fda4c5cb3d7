"""Rankers in TensorFlow graphs."""

import numpy as np
import pytest
from ranker_testing.data import SMALL, fill_table, ranker_inputs

from muse_keras.models import DIN, MUSE

tf = pytest.importorskip("tensorflow", reason="graphs are its own")
pytestmark = pytest.mark.tf


def signature():
    """Specifications of unknown batch, history and candidates."""
    inputs = ranker_inputs(np.random.default_rng(0))
    fixed = {"user_features": [None, 5]}
    return {
        name: tf.TensorSpec(
            fixed.get(name, [None, None, *value.shape[2:]]), value.dtype
        )
        for name, value in inputs.items()
    }


@pytest.mark.parametrize("cls", [MUSE, DIN])
def test_one_graph_serves_all_shapes(cls):
    model = cls(**SMALL)
    fill_table(model)
    graph = tf.function(model.__call__, input_signature=[signature()])
    explain = tf.function(model.explain, input_signature=[signature()])
    for batch, length, candidates in ((2, 12, 3), (1, 1, 1), (3, 70, 20)):
        inputs = ranker_inputs(
            np.random.default_rng(length), batch, length, candidates
        )
        tensors = {k: tf.constant(v) for k, v in inputs.items()}
        expected = model(inputs).numpy()
        np.testing.assert_allclose(graph(tensors), expected, atol=1e-5)
        parts, eager = explain(tensors), model.explain(inputs)
        for name, value in eager.items():
            np.testing.assert_allclose(
                parts[name].numpy().astype("float64"),
                value.numpy().astype("float64"),
                atol=1e-5,
            )


def test_gradients_of_tables_are_lists_of_rows():
    model = MUSE(**SMALL)
    fill_table(model)
    inputs = ranker_inputs(np.random.default_rng(0))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(inputs, training=True))
    gradients = tape.gradient(loss, model.trainable_variables)
    for variable, gradient in zip(
        model.trainable_variables, gradients, strict=True
    ):
        assert gradient is not None, variable.path
        sparse = isinstance(gradient, tf.IndexedSlices)
        assert sparse == getattr(variable, "row_sparse", False), variable.path
