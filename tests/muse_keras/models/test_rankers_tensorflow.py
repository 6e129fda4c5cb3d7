"""Rankers in TensorFlow graphs."""

import numpy as np
import pytest
from ranker_testing.data import OWN, SMALL, fill_table, ranker_inputs

from muse_keras.models import DIN, MUSE

tf = pytest.importorskip("tensorflow", reason="graphs are its own")
pytestmark = pytest.mark.tf


def signature(layout):
    """Specifications of unknown batch, history and candidates."""
    inputs = ranker_inputs(np.random.default_rng(0), layout=layout)
    return {
        name: tf.TensorSpec(
            [None, value.shape[1]]
            if name.startswith("user")
            else [None, None, *value.shape[2:]],
            value.dtype,
        )
        for name, value in inputs.items()
    }


@pytest.mark.parametrize(
    ("cls", "layout"), [(MUSE, SMALL), (DIN, SMALL), (MUSE, OWN)]
)
def test_one_graph_serves_all_shapes(cls, layout):
    model = cls(**layout)
    fill_table(model)
    graph = tf.function(model.__call__, input_signature=[signature(layout)])
    explain = tf.function(model.explain, input_signature=[signature(layout)])
    for batch, length, candidates in ((2, 12, 3), (1, 1, 1), (3, 70, 20)):
        inputs = ranker_inputs(
            np.random.default_rng(length), batch, length, candidates, layout
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


@pytest.mark.parametrize("layout", [SMALL, OWN])
def test_gradients_of_tables_are_lists_of_rows(layout):
    model = MUSE(**layout)
    fill_table(model)
    inputs = ranker_inputs(np.random.default_rng(0), layout=layout)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(inputs, training=True))
    gradients = tape.gradient(loss, model.trainable_variables)
    for variable, gradient in zip(
        model.trainable_variables, gradients, strict=True
    ):
        assert gradient is not None, variable.path
        sparse = isinstance(gradient, tf.IndexedSlices)
        assert sparse == getattr(variable, "row_sparse", False), variable.path
