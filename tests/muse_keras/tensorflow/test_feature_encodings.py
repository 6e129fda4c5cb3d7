"""Encodings of features against NumPy, and on the kernels that GPUs have."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

tf = pytest.importorskip("tensorflow")

from muse_keras.tensorflow import (  # noqa: E402
    bucket_index,
    feature_matches,
    flagged,
    hashed_index,
    standardized,
)
from serving.export.kernel_report import training_kernel_report  # noqa: E402

pytestmark = pytest.mark.tf

SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
# TensorFlow flushes numbers to 0 that are too small for float32's exponent.
FLOATS = st.floats(
    width=32, allow_nan=True, allow_infinity=True, allow_subnormal=False
)
FINITE = st.floats(
    width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False
)


def hash_of(value: int) -> int:
    """The finalizer of MurmurHash3, in Python's integers."""
    bits = value % 2**64
    for multiplier in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        bits = ((bits ^ bits >> 33) * multiplier) % 2**64
    return bits ^ bits >> 33


@settings(max_examples=50, deadline=None)
@given(
    ids=hnp.arrays(np.int64, SHAPES, elements=st.integers(-(2**63), 2**63 - 1)),
    buckets=st.integers(1, 2**32 - 1),
)
def test_hashed_index(ids: np.ndarray, buckets: int) -> None:
    got = hashed_index(tf.constant(ids), buckets).numpy()
    assert got.dtype == np.int64 and got.shape == ids.shape
    wanted = [
        1 + (hash_of(value) >> 32) * buckets // 2**32 if value else 0
        for value in ids.ravel().tolist()
    ]
    assert got.ravel().tolist() == wanted


def test_buckets_of_hashes_are_filled_evenly() -> None:
    ids = tf.range(1, 100_001, dtype=tf.int64)
    counts = np.bincount(hashed_index(ids, 10))
    assert counts[0] == 0 and len(counts) == 11
    np.testing.assert_allclose(counts[1:], 10_000, rtol=0.05)


@settings(max_examples=100, deadline=None)
@given(
    values=hnp.arrays(np.float32, SHAPES, elements=FLOATS),
    boundaries=st.lists(FINITE, max_size=5, unique=True).map(sorted),
)
def test_bucket_index(values: np.ndarray, boundaries: list[float]) -> None:
    # Some values are boundaries.
    flat = values.reshape(-1)
    flat[: len(boundaries)] = boundaries[: len(flat)]
    values = flat.reshape(values.shape)
    got = bucket_index(
        tf.constant(values), tf.constant(boundaries, tf.float32)
    ).numpy()
    assert got.dtype == np.int64 and got.shape == values.shape
    wanted = [
        0 if math.isnan(value) else 1 + sum(b <= value for b in boundaries)
        for value in flat.tolist()
    ]
    assert got.ravel().tolist() == wanted


@settings(max_examples=100, deadline=None)
@given(
    values=hnp.arrays(np.float32, SHAPES, elements=FLOATS),
    mean=st.floats(-10, 10, width=32),
    scale=st.floats(0.125, 10, width=32),
    log=st.booleans(),
)
def test_standardized(
    values: np.ndarray, mean: float, scale: float, log: bool
) -> None:
    got = standardized(tf.constant(values), mean, scale, log).numpy()
    assert got.dtype == np.float32 and got.shape == (*values.shape, 2)
    known = np.isfinite(values)
    numbers = np.where(known, values, 0).astype(np.float64)
    if log:
        numbers = np.sign(numbers) * np.log1p(np.abs(numbers))
    numbers = np.where(known, (numbers - mean) / scale, 0)
    with np.errstate(over="ignore"):
        wanted = np.stack([numbers, known], -1).astype(np.float32)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("log", [False, True])
def test_a_constant_number_is_0(log: bool) -> None:
    got = standardized(tf.constant([5.0, math.nan, 6.0]), 5.0, 0.0, log)
    np.testing.assert_array_equal(got, [[0, 1], [0, 0], [0, 1]])


@settings(max_examples=50, deadline=None)
@given(
    vectors=hnp.arrays(
        np.float32,
        st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 4)),
        elements=FLOATS,
    )
)
def test_flagged(vectors: np.ndarray) -> None:
    got = flagged(tf.constant(vectors)).numpy()
    wanted = np.zeros((*vectors.shape[:2], vectors.shape[2] + 1), np.float32)
    for place in np.ndindex(vectors.shape[:2]):
        if not math.isnan(vectors[place][0]):
            wanted[place] = [
                *np.nan_to_num(
                    vectors[place], nan=0.0, posinf=np.inf, neginf=-np.inf
                ),
                1,
            ]
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    "function, specs",
    [
        (lambda ids: hashed_index(ids, 7), [((None, None), tf.int64)]),
        (bucket_index, [((None, None), tf.float32), ((None,), tf.float32)]),
        *(
            (
                lambda v, m, s, log=log: standardized(v, m, s, log),
                [((None, None), tf.float32), *[((), tf.float32)] * 2],
            )
            for log in (False, True)
        ),
        (flagged, [((None, None, 3), tf.float32)]),
        (
            lambda b, m, c: feature_matches(b, m, c, 9),
            [
                ((None, None, 2), tf.int64),
                ((None, None), tf.bool),
                ((None, None, 2), tf.int64),
            ],
        ),
    ],
    ids=["hashed", "buckets", "number", "log", "vector", "matches"],
)
def test_every_op_has_a_gpu_kernel(
    function: Any, specs: list[tuple[Any, Any]]
) -> None:
    tensors = [tf.TensorSpec(shape, dtype) for shape, dtype in specs]
    step = tf.function(function, autograph=False).get_concrete_function(
        *tensors
    )
    report = training_kernel_report(step)
    assert report.count("data") > 3
    assert report.passed, str(report)
