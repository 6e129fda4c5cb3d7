"""JSON to arrays and back keeps every value, or says why not."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import grpc
import hypothesis
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import strategies as st

from serving.server.errors import ServingError
from serving.server.json_parser import parse_json
from serving.server.json_reader import read_predict_body
from serving.server.json_writer import (
    decimal_text,
    outputs_json,
    predictions_json,
)

FLOAT, DOUBLE, INT32, INT8, STRING, INT64, BOOL = 1, 2, 3, 6, 7, 9, 10
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
    return caught.value.message


shapes = hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4)


@hypothesis.given(st.data(), st.sampled_from(sorted(NUMBERS)))
def test_column_round_trip(data, dtype):
    array = data.draw(hnp.arrays(NUMBERS[dtype], shapes))
    text = outputs_json({"x": array})
    body = text.replace('"outputs"', '"inputs"', 1).encode()
    found = read(body, x=dtype)["x"]
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@hypothesis.given(st.data(), st.sampled_from(sorted(NUMBERS)))
def test_row_round_trip(data, dtype):
    array = data.draw(hnp.arrays(NUMBERS[dtype], shapes))
    other = np.arange(len(array), dtype=np.int64)
    text = predictions_json({"x": array, "n": other})
    body = text.replace('"predictions"', '"instances"', 1).encode()
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
    text = outputs_json({"x_bytes": array})
    found = json.loads(text)["outputs"]
    assert len(found) == len(rows)
    if rows:
        body = json.dumps({"inputs": {"x_bytes": found}}).encode()
        assert read(body, x_bytes=STRING)["x_bytes"].tolist() == rows


@hypothesis.given(st.floats(width=32))
def test_floats_are_short_and_exact(value):
    text = decimal_text(np.float32(value), np.dtype(np.float32))
    if math.isnan(value):
        assert text == "NaN"
    else:
        assert np.float32(text) == np.float32(value)
        assert len(text) <= 16
        assert "inf" not in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1.0"),
        (0.1, "0.1"),
        (0.2, "0.2"),
        (1 / 3, "0.333333343"),
        (9e6, "9e+06"),
        (3e-5, "3e-05"),
        (123456.0, "123456.0"),
        (float("inf"), "Infinity"),
        (float("-inf"), "-Infinity"),
        (-0.0, "-0.0"),
    ],
)
def test_float_texts(value, text):
    assert decimal_text(np.float32(value), np.dtype(np.float32)) == text


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
        assert found.ndim == 0 or isinstance(value, list)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b" ", "The document is empty. at offset: 1"),
        (b"[1, 2", "Missing a comma or ] after an array element. at offset: 5"),
        (b'{"a" 1}', "Missing a colon after a name of object member. "
         "at offset: 5"),
        (b'{"a": 1 "b"}', "Missing a comma or } after an object member. "
         "at offset: 8"),
        (b'{"a": tru}', "Invalid value. at offset: 9"),
        (b'{"a": 1.}', "Miss fraction part in number. at offset: 8"),
        (b'{"a": 1e}', "Miss exponent in number. at offset: 8"),
        (b'{"a": -}', "Invalid value. at offset: 7"),
        (b'{"a": "x', "Missing a closing quotation mark in string. "
         "at offset: 6"),
        (b'{"a": "\\q"}', "Invalid escape character in string. at offset: 7"),
        (b'{"a": "\\u12x4"}', "Incorrect hex digit after \\u escape in "
         "string. at offset: 7"),
        (b'{} {}', "The document root must not be followed by other values. "
         "at offset: 3"),
    ],
)  # fmt: skip
def test_parse_errors(text, message):
    with pytest.raises(ServingError) as caught:
        parse_json(text)
    assert caught.value.message == f"JSON Parse error: {message}"


def test_deep_nesting_does_not_crash():
    for body in (b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000):
        with pytest.raises(ServingError):
            read(body, x=INT64)


@hypothesis.given(st.binary(max_size=40))
def test_any_bytes_parse_or_fail_with_a_serving_error(body):
    try:
        parse_json(body)
    except ServingError as error:
        assert error.message.startswith("JSON Parse error: ")


def test_integers_are_not_bent():
    assert read({"inputs": {"x": [2**63 - 1, -(2**63)]}}, x=INT64)[
        "x"
    ].tolist() == [2**63 - 1, -(2**63)]
    for value in (2**63, 1.0, True, "1", None, {}):
        assert "is not of expected type: int64" in fails(
            {"inputs": {"x": [0, value]}}, x=INT64
        )
    assert fails({"inputs": {"x": [2**24]}}, x=FLOAT) == (
        "Cannot convert JSON value: 16777216 to float without loss of "
        "precision."
    )
    assert "without loss" in fails({"inputs": {"x": [1e39]}}, x=FLOAT)
    assert read({"inputs": {"x": [2**24 - 1]}}, x=FLOAT)["x"] == [16777215.0]


def test_levels():
    assert fails({"inputs": {"x": [[1], 2]}}, x=INT64) == (
        "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. "
        "Expected at level: 2"
    )
    assert fails({"inputs": {"x": [1, [2]]}}, x=INT64) == (
        "Encountered list at unexpected level: 1 expected < 1"
    )


def test_row_errors():
    two = {"x": INT64, "y": INT64}
    assert fails({"instances": [1]}, **two).startswith(
        "instances is a plain list, but expecting list of objects"
    )
    assert fails({"inputs": [1]}, **two).startswith(
        "inputs is a plain value/list, but expecting an object"
    )
    assert fails({"instances": [[1, 2], [3]]}, x=INT64) == (
        "Failed to process element: 1 of 'instances' list. Error: "
        "INVALID_ARGUMENT: Expecting tensor size: 2 but got: 1"
    )
    assert fails(
        {"instances": [{"x": [1], "y": 1}, {"x": [[1]], "y": 1}]}, **two
    ) == (
        "Failed to process element: 1 key: x of 'instances' list. Error: "
        "INVALID_ARGUMENT: Expecting shape [1] but got: [1,1]"
    )
    assert fails({"instances": [{"x": 1, "y": 1}, 3]}, **two) == (
        "Expecting object but got list at item 1 of input list"
    )
    assert fails({"instances": 5}, x=INT64).endswith(
        "Excepting 'instances' to be an list/array"
    )
    assert fails({"signature_name": 3}, x=INT64).endswith(
        "'signature_name' key must be a string value."
    )
    assert fails([1], x=INT64).endswith("Is not object")


def test_outputs_of_unequal_batch():
    with pytest.raises(ServingError, match="has inconsistent batch size"):
        predictions_json({"a": np.zeros(2), "b": np.zeros(3)})
    assert json.loads(predictions_json({"a": np.zeros((0, 3))})) == {
        "predictions": []
    }
