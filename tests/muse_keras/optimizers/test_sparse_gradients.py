"""Row-sparse Adam on TensorFlow's sparse gradients."""

import keras
import numpy as np
import pytest
from ranker_testing import oracles

from muse_keras.optimizers import RowSparseAdam

tf = pytest.importorskip("tensorflow", reason="sparse gradients are its own")
pytestmark = pytest.mark.tf

ROWS, DIM = 11, 3


def table_variable():
    rng = np.random.default_rng(0)
    table = keras.Variable(rng.normal(size=(ROWS, DIM)), name="table")
    table.row_sparse = True
    return table


def slices(rng, count=8):
    """Repeated rows; two entries of row 5 that cancel."""
    rows = np.append(rng.integers(0, 5, count), [5, 5])
    values = rng.normal(size=(count + 2, DIM)).astype("float32")
    values[-1] = -values[-2]
    dense = np.zeros((ROWS, DIM), "float32")
    np.add.at(dense, rows, values)
    dense[5] = 0.0
    return tf.IndexedSlices(values, rows, (ROWS, DIM)), dense


@pytest.mark.parametrize("compiled", [False, True])
def test_against_numpy(compiled):
    rng = np.random.default_rng(1)
    table = table_variable()
    start = table.numpy()
    optimizer = RowSparseAdam(table_learning_rate=2e-2)
    optimizer.build([table])

    def apply(values, rows):
        optimizer.apply([tf.IndexedSlices(values, rows, (ROWS, DIM))], [table])

    step = tf.function(apply) if compiled else apply
    gradients = []
    for _ in range(10):
        sparse, dense = slices(rng)
        step(sparse.values, sparse.indices)
        gradients.append(dense)
    expected, _, second = oracles.adam(start, gradients, 2e-2, sparse=True)
    np.testing.assert_allclose(table.numpy(), expected, atol=1e-5)
    moment = optimizer.second_moment(table).numpy()
    np.testing.assert_allclose(moment, second, rtol=1e-4, atol=1e-9)
    np.testing.assert_array_equal(table.numpy()[5:], start[5:])


@pytest.mark.parametrize(
    "clipping",
    [{"clipnorm": 0.5}, {"clipvalue": 0.2}, {"global_clipnorm": 1.0}],
)
def test_clipping_sees_the_summed_gradient(clipping):
    rng = np.random.default_rng(2)
    sparse, dense = slices(rng)
    other = rng.normal(size=(4, DIM)).astype("float32")
    results = []
    for gradient in (sparse, tf.constant(dense)):
        table = table_variable()
        weight = keras.Variable(np.ones((4, DIM)), name="weight")
        # Two steps: the first moves by the rate whatever the length.
        optimizer = RowSparseAdam(1e-2, 1e-2, **clipping)
        for scale in (1.0, 3.0):
            scaled = (
                tf.IndexedSlices(
                    gradient.values * scale, gradient.indices, (ROWS, DIM)
                )
                if isinstance(gradient, tf.IndexedSlices)
                else gradient * scale
            )
            optimizer.apply([scaled, tf.constant(other)], [table, weight])
        results.append((table.numpy(), weight.numpy()))
    for left, right in zip(*results, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-6)


def all_operations(graph):
    yield from graph.get_operations()
    for name in graph._functions if hasattr(graph, "_functions") else ():
        function = graph._get_function(name)
        if hasattr(function, "graph"):
            yield from function.graph.get_operations()


def test_no_tensor_of_the_tables_size_is_ever_made():
    rows = 12_347
    table = keras.Variable(np.zeros((rows, DIM)), name="table")
    table.row_sparse = True
    optimizer = RowSparseAdam(global_clipnorm=1.0)
    optimizer.build([table])

    @tf.function
    def step(ids):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.gather(table.value, ids) ** 2 + 1.0)
        gradient = tape.gradient(loss, [table.value])
        assert isinstance(gradient[0], tf.IndexedSlices)
        optimizer.apply(gradient, [table])

    graph = step.get_concrete_function(tf.TensorSpec([None], tf.int64)).graph
    operations = list(all_operations(graph))
    assert any(op.type == "ResourceScatterUpdate" for op in operations)
    for op in operations:
        assert op.type not in ("ReadVariableOp", "AssignVariableOp") or (
            "embedding" not in op.name and "table" not in op.name
        ), op
        for output in op.outputs:
            assert output.shape.rank is None or rows not in list(output.shape)


def test_under_a_loss_scale_rows_stay_sparse():
    """What Keras wraps around an optimizer for mixed_float16."""
    rng = np.random.default_rng(3)
    plain, scaled = table_variable(), table_variable()
    optimizer = RowSparseAdam()
    optimizer.build([plain])
    wrapped = keras.optimizers.LossScaleOptimizer(
        RowSparseAdam(), initial_scale=8.0
    )
    wrapped.build([scaled])

    @tf.function
    def step(values, rows):
        wrapped.apply([tf.IndexedSlices(values, rows, (ROWS, DIM))], [scaled])

    for _ in range(3):
        sparse, _ = slices(rng)
        optimizer.apply([sparse], [plain])
        step(sparse.values * 8.0, sparse.indices)
    np.testing.assert_allclose(scaled.numpy(), plain.numpy(), atol=1e-6)
    before = scaled.numpy()
    step(sparse.values * np.inf, sparse.indices)
    np.testing.assert_array_equal(scaled.numpy(), before)
    assert float(wrapped.dynamic_scale) == 4.0
    concrete = step.get_concrete_function(
        tf.TensorSpec([None, DIM]), tf.TensorSpec([None], tf.int64)
    )
    types = {op.type for op in all_operations(concrete.graph)}
    assert "ResourceScatterUpdate" in types and "UnsortedSegmentSum" in types
