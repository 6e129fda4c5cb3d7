"""Integers cut out of JSON are those a parser finds, or none are cut."""

from __future__ import annotations

import json
from types import SimpleNamespace
from unittest import mock

import grpc
import hypothesis
import numpy as np
import orjson
import pytest
from hypothesis import strategies as st

from serving.server import integer_lists
from serving.server.errors import ServingError
from serving.server.integer_lists import (
    cut_integer_lists,
    parse_integers,
    put_back,
)
from serving.server.json_reader import read_predict_body

FLOAT, DOUBLE, INT32, INT8, STRING, INT64, BOOL = 1, 2, 3, 6, 7, 9, 10
int64s = st.integers(-(2**63), 2**63 - 1)
# Every length of digits is as likely.
sized = st.integers(0, 19).flatmap(
    lambda n: st.integers(max(-(2**63), -(10**n)), min(2**63 - 1, 10**n))
)
blanks = st.sampled_from(["", " ", "  ", "\n", "\t", "\r\n"])


@pytest.fixture(autouse=True)
def short_lists_are_cut(monkeypatch):
    monkeypatch.setattr(integer_lists, "_LARGE", 1)


@hypothesis.given(st.lists(int64s | sized, min_size=1, max_size=50), st.data())
def test_reads_what_json_reads(values, data):
    before, after = data.draw(blanks), data.draw(blanks)
    text = ",".join(f"{before}{value}{after}" for value in values).encode()
    found = parse_integers(text)
    assert found is not None and found.dtype == np.int64
    assert found.tolist() == values


@hypothesis.given(
    st.text('0123456789-+,. \n\te\x00\xff[]"', max_size=24)
    | st.text("019-, ", max_size=12)
)
@hypothesis.settings(max_examples=2000)
def test_what_is_no_list_of_integers_is_refused(text):
    try:
        wanted = orjson.loads("[" + text + "]")
    except orjson.JSONDecodeError:
        wanted = None
    whole = (
        isinstance(wanted, list)
        and wanted
        and all(type(v) is int and -(2**63) <= v < 2**63 for v in wanted)
    )
    found = parse_integers(text.encode())
    assert (None if found is None else found.tolist()) == (
        wanted if whole else None
    )


@pytest.mark.parametrize(
    "text",
    [
        "9223372036854775808",
        "-9223372036854775809",
        "18446744073709551616",
        "99999999999999999999",
        "1,,2",
        ",1",
        "1,",
        "1 2",
        "1 2,,3",
        "01",
        "-01",
        "-",
        "- 1",
        "--1",
        "1-2",
        "1.0",
        "1e3",
        "",
        " ",
    ],
)
def test_refused(text):
    assert parse_integers(text.encode()) is None


def test_the_ends_of_int64():
    ends = [-(2**63), 2**63 - 1, 0, -1]
    found = parse_integers(",".join(map(str, ends)).encode())
    assert found.tolist() == ends


values = st.recursive(
    st.none()
    | st.booleans()
    | int64s
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text('[]",\\ 12ä', max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(int64s, min_size=1, max_size=6)
        | st.dictionaries(st.text('[]",\\ 12', max_size=4), inner, max_size=3)
    ),
    max_leaves=12,
)


@hypothesis.given(values, st.booleans())
def test_a_document_is_the_same_after_cutting(document, indented):
    body = json.dumps(document, indent=2 if indented else None).encode()
    text, lists = cut_integer_lists(body)
    found, put = put_back(orjson.loads(text), lists)
    assert put == len(lists)
    assert _plain(found) == orjson.loads(body)


@hypothesis.given(st.text('[]{}",:\\12 -', max_size=30))
@hypothesis.settings(max_examples=1000)
def test_any_text_gives_the_answer_of_the_plain_way(text):
    for body in (
        text.encode(),
        b'{"inputs": {"x": ' + text.encode() + b"}}",
        b'{"instances": [{"x": ' + text.encode() + b"}]}",
    ):
        for dtype in (INT64, FLOAT, STRING):
            assert _answer(body, dtype) == _plain_answer(body, dtype)


@hypothesis.given(values, st.sampled_from([INT64, INT32, INT8, FLOAT, STRING]))
@hypothesis.settings(max_examples=300)
def test_any_value_gives_the_answer_of_the_plain_way(value, dtype):
    for document in (
        {"inputs": {"x": value}},
        {"inputs": value},
        {"instances": value},
        {"instances": [{"x": value}, {"x": value}]},
        {"signature_name": value, "inputs": {"x": [1]}},
        {"inputs": {"x": [1]}, "extra": value},
    ):
        body = json.dumps(document).encode()
        assert _answer(body, dtype) == _plain_answer(body, dtype)


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs": {"x": [1, 2]}, "inputs": {"x": [3, 4]}}',
        b'{"inputs": {"x": [1, 2], "x": [3]}}',
        b"{[1, 2]: 3}",
        b'{"inputs": {[1, 2]: 3}}',
        b'{"inputs": {"x": "[1, 2]"}}',
        b'{"inputs": {"x": ["[1, 2]", "\\"[3, 4]"]}}',
        b'{"inputs": {"x": [[1, 2], [3]]}}',
        b'{"inputs": {"x": [[1, 2], 3]}}',
        b'{"inputs": {"x": [[[1]], [[2]]]}}',
        b'{"inputs": {"x": [[], [1]]}}',
        b'{"inputs": {"x": [1, 2]5}}',
        b'{"inputs": {"x": "a"[1, 2]}}',
        b'{"inputs": {"x": [1, 2]',
        b'{"signature_name": [1, 2], "inputs": {"x": [1]}}',
        b'{"inputs": {"x": [16777216]}}',
        b'{"inputs": {"x": [300]}}',
    ],
)
def test_odd_bodies(body):
    for dtype in (INT64, INT32, INT8, FLOAT, DOUBLE, STRING, BOOL):
        assert _answer(body, dtype) == _plain_answer(body, dtype)


def test_short_rows_beside_long_ones():
    with mock.patch.object(integer_lists, "_LARGE", 64):
        rows = [[0] * 30, list(range(10**6, 10**6 + 30))]
        body = json.dumps({"inputs": {"x": rows}}).encode()
        assert len(cut_integer_lists(body)[1]) == 2
        body = body.replace(b"0, ", b"0,").replace(b" ", b"")
        assert len(cut_integer_lists(body)[1]) == 1
        assert _answer(body, INT64) == _plain_answer(body, INT64)


@pytest.mark.timeout(20)
def test_hostile_bodies_take_linear_time(monkeypatch):
    monkeypatch.setattr(integer_lists, "_LARGE", 2048)
    for part in (b"[", b'["', b"[1]", b'\\"', b'"\\', b"[[1,", b"]", b'[",'):
        body = b'"' * (part == b'\\"') + part * 200_000
        assert cut_integer_lists(body) == (body, {})


def _plain(value):
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value


def _plain_answer(body: bytes, dtype: int):
    with mock.patch(
        "serving.server.json_reader.cut_integer_lists", lambda text: (text, {})
    ):
        return _answer(body, dtype)


def _answer(body: bytes, dtype: int):
    infos = {"x": SimpleNamespace(dtype=dtype)}
    try:
        found = read_predict_body(body, lambda name: infos)
    except ServingError as error:
        assert error.code in (
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.UNIMPLEMENTED,
        )
        return error.code, error.message
    array = found.inputs["x"]
    return (
        found.signature_name,
        found.row_form,
        array.dtype,
        array.shape,
        array.tobytes() if dtype != STRING else array.tolist(),
    )
