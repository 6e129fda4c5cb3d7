"""What a training step is made of: GPU kernels, precision."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from muse_keras.optimizers import RowSparseAdam
from serving.export.graph_walk import DATA
from serving.export.kernel_report import training_kernel_report
from tests.tfx_pipeline.training import toy_training
from tfx_pipeline import config as config_lib
from tfx_pipeline.training import input_fn, trainer

pytestmark = pytest.mark.tf


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    return toy_training.write_items(tmp_path_factory.mktemp("table"))


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    pattern, _ = toy_training.write_requests(
        tmp_path_factory.mktemp("requests"), 6
    )
    requests = input_fn.request_dataset([pattern], toy_training.SPEC, 6)
    return next(
        iter(input_fn.ranking_dataset(requests, 6, toy_training.DECLARED))
    )


def make(items, kind="muse", compute_dtype="float32", oov_rate=0.1):
    keras.utils.set_random_seed(1)
    model = trainer.build_model(
        config_lib.ModelConfig(
            type=kind, k=3, recent=3, hidden_units=(8,), oov_rate=oov_rate
        ),
        items,
        toy_training.DECLARED,
        toy_training.VOCABULARIES,
        compute_dtype,
    )
    optimizer = RowSparseAdam(1e-2, table_learning_rate=1e-1)
    trainer.compile_model(model, optimizer, tf.distribute.get_strategy())
    return model


def concrete_step(model, batch):
    """Returns the graph of a step on batches of any size."""

    def spec(values):
        return tf.TensorSpec([None, None, *values.shape[2:]], values.dtype)

    inputs, clicks, weights = tf.nest.map_structure(spec, batch)
    inputs["user_features"] = tf.TensorSpec([None, 5], tf.int32)
    return tf.function(
        lambda *batch: model.train_step(batch), autograph=False
    ).get_concrete_function(inputs, clicks, weights)


@pytest.fixture(scope="module")
def report_of(items, batch):
    @functools.cache
    def report(kind, compute_dtype):
        model = make(items, kind, compute_dtype)
        return training_kernel_report(concrete_step(model, batch))

    return report


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["muse", "din"])
def test_every_op_of_a_step_has_a_gpu_kernel(report_of, kind, compute_dtype):
    report = report_of(kind, compute_dtype)
    assert report.passed, str(report)


def test_the_walk_reaches_gradients_and_updates(report_of):
    """It would also pass if it saw nothing."""
    report = report_of("muse", "float32")
    data = {use.op for use in report.uses if use.kind == DATA}
    assert {
        "AssignVariableOp",
        "MatMul",
        "ResourceApplyAdam",
        "ResourceGather",
        "ResourceScatterUpdate",
        "StatelessRandomUniformV2",
        "Unique",
        "UnsortedSegmentSum",
    } <= data
    assert report.count(DATA) > 1000


def test_what_a_step_writes_must_be_computed_on_the_gpu():
    counts = tf.Variable([0, 0])

    @tf.function
    def step(ids):
        counts.assign_add(ids + 1)

    report = training_kernel_report(
        step.get_concrete_function(tf.TensorSpec([2], tf.int32))
    )
    assert [use.op for use in report.violations] == ["AddV2"]


def test_in_bfloat16_weights_and_their_gradients_stay_float32(items, batch):
    exact, rounded = (
        make(items, compute_dtype=dtype, oov_rate=0.0)
        for dtype in ("float32", "bfloat16")
    )
    for one, other in zip(exact.weights, rounded.weights, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    losses = [
        [float(model.train_on_batch(*batch)) for _ in range(20)]
        for model in (exact, rounded)
    ]
    assert losses[0] != losses[1]
    np.testing.assert_allclose(losses[1], losses[0], atol=0.02)
    assert losses[1][-1] < losses[1][0] - 0.1


def test_after_bfloat16_a_model_computes_in_float32(items, batch, tmp_path):
    """Not nearly: it is then the same function of the same weights."""
    trained = make(items, compute_dtype="bfloat16")
    trained.train_on_batch(*batch)
    twin = make(items)
    for target, source in zip(twin.weights, trained.weights, strict=True):
        target.assign(source)
    wanted = np.asarray(twin(batch[0]))
    assert (np.asarray(trained(batch[0])) != wanted).any()
    trainer.compute_in_float32(trained)
    np.testing.assert_array_equal(trained(batch[0]), wanted)
    trained.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(batch[0]), wanted, atol=1e-6)


def test_compute_dtypes_are_those_that_need_no_loss_scale():
    with pytest.raises(ValueError, match="float32.*bfloat16"):
        config_lib.TrainerConfig(compute_dtype="float16")
