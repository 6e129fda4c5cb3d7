"""Row-sparse Adam against NumPy, on every backend."""

import keras
import numpy as np
import pytest
from ranker_testing import oracles

from muse_keras.layers import IdEmbedding
from muse_keras.optimizers import RowSparseAdam


def numpy(value):
    return keras.ops.convert_to_numpy(value)


def variables(seed=0):
    rng = np.random.default_rng(seed)
    table = keras.Variable(rng.normal(size=(9, 3)), name="table")
    table.row_sparse = True
    dense = keras.Variable(rng.normal(size=(4, 3)), name="dense")
    return table, dense


def table_gradient(rng, shape=(9, 3)):
    gradient = rng.normal(size=shape).astype("float32")
    gradient[rng.random(shape[0]) < 0.5] = 0.0
    gradient[2] = 0.0
    # A single zero entry in a touched row moves all the same.
    gradient[3] = [0.0, 1.0, -1.0][: shape[1]]
    return gradient


def test_against_numpy_over_many_steps():
    rng = np.random.default_rng(1)
    table, dense = variables()
    start = numpy(table).copy(), numpy(dense).copy()
    optimizer = RowSparseAdam(3e-3, table_learning_rate=2e-2)
    steps = [
        (table_gradient(rng), rng.normal(size=(4, 3)).astype("float32"))
        for _ in range(12)
    ]
    for pair in steps:
        tensors = [keras.ops.convert_to_tensor(g) for g in pair]
        optimizer.apply(tensors, [table, dense])
    for place, rate, sparse in ((0, 2e-2, True), (1, 3e-3, False)):
        weight, _, second = oracles.adam(
            start[place], [pair[place] for pair in steps], rate, sparse
        )
        variable = (table, dense)[place]
        np.testing.assert_allclose(numpy(variable), weight, atol=1e-5)
        np.testing.assert_allclose(
            numpy(optimizer.second_moment(variable)), second, rtol=1e-4
        )
    np.testing.assert_array_equal(numpy(table)[2], start[0][2])
    assert not numpy(optimizer.second_moment(table))[2].any()


def test_dense_weights_move_as_with_keras_adam():
    rng = np.random.default_rng(2)
    gradients = [rng.normal(size=(4, 3)).astype("float32") for _ in range(5)]
    results = []
    for optimizer in (RowSparseAdam(1e-2), keras.optimizers.Adam(1e-2)):
        _, dense = variables()
        for gradient in gradients:
            optimizer.apply([keras.ops.convert_to_tensor(gradient)], [dense])
        results.append(numpy(dense))
    np.testing.assert_allclose(*results, atol=1e-6)


def small_model(seed=0):
    keras.utils.set_random_seed(seed)
    rows = keras.Input((2,), dtype="int32")
    hidden = IdEmbedding(30, 4)(rows)
    output = keras.layers.Dense(1)(keras.layers.Flatten()(hidden))
    return keras.Model(rows, output)


def training_data():
    rng = np.random.default_rng(3)
    rows = rng.integers(0, 20, (24, 2)).astype("int32")
    return rows, rng.normal(size=(24, 1)).astype("float32")


def test_fit_moves_only_rows_of_the_data():
    model = small_model()
    model.compile(
        RowSparseAdam(1e-2, table_learning_rate=1e-1), "mse", jit_compile=False
    )
    table = model.layers[1].embeddings
    before = numpy(table).copy()
    rows, labels = training_data()
    history = model.fit(rows, labels, batch_size=6, epochs=4, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]
    moved = np.any(numpy(table) != before, axis=1)
    np.testing.assert_array_equal(np.flatnonzero(moved), np.unique(rows))


def test_saving_keeps_the_moments(tmp_path):
    """Four epochs, and two, save, reload, two, give the same weights."""
    rows, labels = training_data()

    def fit(model, epochs):
        model.fit(
            rows, labels, batch_size=6, epochs=epochs, verbose=0, shuffle=False
        )

    def fresh():
        model = small_model()
        model.compile(
            RowSparseAdam(1e-2, table_learning_rate=1e-1),
            "mse",
            jit_compile=False,
        )
        return model

    whole = fresh()
    fit(whole, 4)
    half = fresh()
    fit(half, 2)
    half.save(tmp_path / "half.keras")
    half = keras.saving.load_model(tmp_path / "half.keras")
    fit(half, 2)
    assert isinstance(half.optimizer, RowSparseAdam)
    for left, right in zip(whole.weights, half.weights, strict=True):
        np.testing.assert_allclose(numpy(left), numpy(right), atol=1e-6)


def test_schedules_and_config():
    schedule = keras.optimizers.schedules.ExponentialDecay(1e-1, 10, 0.5)
    optimizer = RowSparseAdam(
        1e-3, schedule, beta_1=0.8, epsilon=1e-6, clipnorm=2.0
    )
    stored = keras.saving.serialize_keras_object(optimizer)
    again = keras.saving.deserialize_keras_object(stored)
    assert again.get_config() == optimizer.get_config()
    table, dense = variables()
    before = numpy(table).copy()
    gradient = np.ones((9, 3), "float32")
    again.clipnorm = None
    for _ in range(2):
        again.apply([keras.ops.convert_to_tensor(gradient)] * 1, [table])
    rates = [0.1, 0.1 * 0.5**0.1]
    moved = numpy(before - numpy(table))
    # The gradient never changes, so each step is its learning rate long.
    np.testing.assert_allclose(moved, sum(rates), rtol=2e-3)


def test_one_rate_for_all():
    table, _ = variables()
    before = numpy(table).copy()
    optimizer = RowSparseAdam(5e-2, table_learning_rate=None)
    optimizer.apply([keras.ops.ones((9, 3))], [table])
    np.testing.assert_allclose(before - numpy(table), 5e-2, rtol=1e-4)


def test_weight_decay_leaves_tables_alone():
    table, dense = variables()
    before = numpy(table).copy(), numpy(dense).copy()
    optimizer = RowSparseAdam(1e-1, weight_decay=0.5)
    zeros = [keras.ops.zeros((9, 3)), keras.ops.zeros((4, 3))]
    optimizer.apply(zeros, [table, dense])
    np.testing.assert_array_equal(numpy(table), before[0])
    np.testing.assert_allclose(numpy(dense), before[1] * 0.95, rtol=1e-5)


@pytest.mark.parametrize(
    "argument",
    ["use_ema", "loss_scale_factor", "gradient_accumulation_steps"],
)
def test_what_works_on_whole_tables_is_refused(argument):
    with pytest.raises(ValueError, match=f"`{argument}` works on whole"):
        RowSparseAdam(**{argument: 2})
