"""JSON to arrays and back keeps every value, or says why not."""

from __future__ import annotations

import json
from types import SimpleNamespace

import grpc
import hypothesis
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import strategies as st

from serving.model_server.errors import ServingError
from serving.model_server.json_bodies import (
    outputs_json,
    predictions_json,
    read_predict_body,
)

pytestmark = pytest.mark.once

FLOAT, DOUBLE, INT32, INT8, STRING, INT64, BOOL = 1, 2, 3, 6, 7, 9, 10
HALF = 19
NUMBERS = {
    FLOAT: np.float32,
    DOUBLE: np.float64,
    INT32: np.int32,
    INT8: np.int8,
    INT64: np.int64,
    BOOL: np.bool_,
}


def infos(**dtypes: int):
    return lambda name: {k: SimpleNamespace(dtype=v) for k, v in dtypes.items()}


def read(document, **dtypes: int) -> dict[str, np.ndarray]:
    body = document
    if not isinstance(document, bytes):
        body = json.dumps(document).encode()
    return read_predict_body(body, infos(**dtypes)).inputs


def fails(document, **dtypes: int) -> str:
    with pytest.raises(ServingError) as caught:
        read(document, **dtypes)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "\n" not in caught.value.message
    return caught.value.message


shapes = hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4)


@hypothesis.given(st.data(), st.sampled_from(sorted(NUMBERS)))
def test_column_round_trip(data, dtype):
    array = data.draw(hnp.arrays(NUMBERS[dtype], shapes))
    text = outputs_json({"x": array})
    found = read(text.replace(b'"outputs"', b'"inputs"', 1), x=dtype)["x"]
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@hypothesis.given(st.data(), st.sampled_from(sorted(NUMBERS)))
def test_row_round_trip(data, dtype):
    array = data.draw(hnp.arrays(NUMBERS[dtype], shapes))
    other = np.arange(len(array), dtype=np.int64)
    text = predictions_json({"x": array, "n": other})
    body = text.replace(b'"predictions"', b'"instances"', 1)
    found = read(body, x=dtype, n=INT64)
    np.testing.assert_array_equal(found["x"], array)
    np.testing.assert_array_equal(found["n"], other)


@hypothesis.given(
    st.lists(st.lists(st.binary(max_size=6), min_size=2, max_size=2))
)
def test_bytes_round_trip(rows):
    array = np.empty((len(rows), 2), object)
    for index, row in enumerate(rows):
        array[index] = row
    found = json.loads(outputs_json({"x_bytes": array}))["outputs"]
    assert len(found) == len(rows)
    if rows:
        body = json.dumps({"inputs": {"x_bytes": found}}).encode()
        assert read(body, x_bytes=STRING)["x_bytes"].tolist() == rows


@hypothesis.given(st.binary(max_size=6))
def test_bytes_under_another_name_are_written_as_they_are(raw):
    array = np.empty(1, object)
    array[0] = raw
    text = outputs_json({"x": array}).decode("utf-8", "surrogateescape")
    (found,) = json.loads(text)["outputs"]
    assert found.encode("utf-8", "surrogateescape") == raw


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_short_floats_are_written_as_float32(dtype):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float16
    array = np.array([0.1, np.nan, -2], kind)
    found = json.loads(outputs_json({"x": array}))["outputs"]
    np.testing.assert_array_equal(np.float32(found), array.astype(np.float32))
    scalar = json.loads(outputs_json({"x": array[:1].reshape(())}))["outputs"]
    assert np.float32(scalar) == np.float32(array[0])


@hypothesis.given(st.data(), st.sampled_from([FLOAT, INT64, INT32, BOOL]))
@hypothesis.settings(max_examples=200)
def test_any_json_is_an_array_or_a_clear_error(data, dtype):
    leaf = (
        st.none()
        | st.booleans()
        | st.integers(-(2**70), 2**70)
        | st.floats()
        | st.text(max_size=3)
        | st.dictionaries(st.text(max_size=2), st.none(), max_size=2)
    )
    value = data.draw(st.recursive(leaf, st.lists, max_leaves=8))
    body = json.dumps({"inputs": {"x": value}}).encode()
    try:
        found = read(body, x=dtype)["x"]
    except ServingError as error:
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert error.message
    else:
        assert found.dtype == NUMBERS[dtype]
        np.testing.assert_array_equal(found, np.array(value, found.dtype))


def test_deep_nesting_does_not_crash():
    for depth in (33, 1_000, 100_000):
        for body in (b"[" * depth, b"[" * depth + b"]" * depth):
            with pytest.raises(ServingError):
                read(b'{"inputs": ' + body + b"}", x=INT64)


@hypothesis.given(st.binary(max_size=40))
def test_any_bytes_fail_with_a_serving_error(body):
    with pytest.raises(ServingError):
        read(body, x=INT64)


def test_integers_are_not_bent():
    for values in ([2**63 - 1, -(2**63)], [2**53 + 1, 0]):
        found = read({"inputs": {"x": values}}, x=INT64)["x"]
        assert found.tolist() == values
        rows = [{"x": value} for value in values]
        assert read({"instances": rows}, x=INT64)["x"].tolist() == values
    found = read({"inputs": {"x": [2**64 - 1, 1]}}, x=23)["x"]
    assert found.tolist() == [2**64 - 1, 1]
    for value in (1.0, True, "1", None, {}):
        assert "is not of expected type: int64" in fails(
            {"inputs": {"x": [0, value]}}, x=INT64
        )
    for value in (2**63, -(2**63) - 1, 2**64):
        fails({"inputs": {"x": [0, value]}}, x=INT64)
    for value in (2**24, 1e39, 2**200):
        assert "without loss" in fails({"inputs": {"x": [value]}}, x=FLOAT)
    assert read({"inputs": {"x": [2**24 - 1]}}, x=FLOAT)["x"] == [16777215.0]
    # NaN is no JSON, and makes another parser read the body.
    fails(b'{"inputs": {"x": [NaN], "y": [123456789012345678901]}}',
          x=FLOAT, y=INT64)  # fmt: skip


def test_a_type_that_json_cannot_carry():
    with pytest.raises(ServingError) as caught:
        read({"inputs": {"x": [1.0]}}, x=HALF)
    assert caught.value.code is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    "value", [[[1], 2], [1, [2]], [[1, 2], [3]], [[[1]], [[1, 2]]]]
)
def test_ragged(value):
    assert "x" in fails({"inputs": {"x": value}}, x=INT64)
    assert "x" in fails({"instances": value}, x=INT64)


def test_row_errors():
    two = {"x": INT64, "y": INT64}
    assert "Expecting objects in 'instances'" in fails(
        {"instances": [1]}, **two
    )
    assert "Expecting objects in 'inputs'" in fails({"inputs": [1]}, **two)
    assert "Input x" in fails(
        {"instances": [{"x": [1], "y": 1}, {"x": [[1]], "y": 1}]}, **two
    )
    assert "item 1" in fails({"instances": [{"x": 1, "y": 1}, 3]}, **two)
    assert "to be a list" in fails({"instances": 5}, x=INT64)
    assert "must be a string" in fails({"signature_name": 3}, x=INT64)
    assert "not a JSON object" in fails([1], x=INT64)


def test_outputs_of_unequal_batch():
    with pytest.raises(ServingError, match="inconsistent batch size"):
        predictions_json({"a": np.zeros(2), "b": np.zeros(3)})
    assert json.loads(predictions_json({"a": np.zeros((0, 3))})) == {
        "predictions": []
    }


@pytest.mark.parametrize(
    "body",
    [
        b'{"signature_name": "\\ud800", "inputs": {"examples": ["x"]}}',
        b'{"inputs": {"examples": ["\\ud800"]}}',
    ],
)
def test_half_of_a_surrogate_pair_is_a_wrong_argument(body):
    with pytest.raises(ServingError, match="surrogate"):
        read_predict_body(body, infos(examples=STRING))
