"""Requests written and read around their tensors are protobuf's own."""

from __future__ import annotations

import hypothesis
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import strategies as st

from serving.wire import messages, predict_bytes
from serving.wire.predict_bytes import (
    PredictView,
    read_predict,
    write_predict,
)
from serving.wire.tensors import TensorError, array_from_proto, fill_proto

Request = messages.PredictRequest
arrays = st.sampled_from([np.int64, np.float32, np.int8, np.bool_]).flatmap(
    lambda dtype: hnp.arrays(
        dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9)
    )
)


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch):
    monkeypatch.setattr(predict_bytes, "_LARGE", 1)


def head() -> Request:
    request = Request()
    request.model_spec.name = "m"
    request.model_spec.version.value = 7
    return request


def plain(inputs, outputs=()) -> Request:
    request = head()
    request.output_filter.extend(outputs)
    for name, array in inputs.items():
        fill_proto(request.inputs[name], array)
    return request


@hypothesis.given(
    st.dictionaries(st.text(max_size=5), arrays, max_size=4),
    st.lists(st.text(max_size=3), max_size=2),
)
def test_written_and_read(inputs, outputs):
    raw = write_predict(head(), inputs, outputs)
    assert Request.FromString(raw) == plain(inputs, outputs)
    found = read_predict(raw, Request)
    assert found.model_spec.name == "m"
    assert found.model_spec.version.value == 7
    assert found.HasField("model_spec")
    assert list(found.output_filter) == outputs
    assert set(found.inputs) == set(inputs)
    for name, array in inputs.items():
        read = array_from_proto(found.inputs[name])
        assert read.dtype == array.dtype and read.shape == array.shape
        np.testing.assert_array_equal(read, array)


def test_views_and_orders_of_memory():
    base = np.arange(24, dtype=np.int64).reshape(4, 6)
    inputs = {
        "turned": base.T,
        "stepped": base[:, ::2],
        "swapped": base.astype(">i8"),
        "scalar": np.array(5),
    }
    found = read_predict(write_predict(head(), inputs), Request)
    for name, array in inputs.items():
        np.testing.assert_array_equal(
            array_from_proto(found.inputs[name]), array
        )


def test_content_is_a_view_of_the_request():
    raw = write_predict(head(), {"x": np.arange(1000)})
    content = read_predict(raw, Request).inputs["x"].tensor_content
    assert isinstance(content, memoryview) and content.obj is raw


def test_strings_and_wrong_types():
    words = np.array([b"a", b"\xff"], object)
    found = read_predict(write_predict(head(), {"w": words}), Request)
    assert array_from_proto(found.inputs["w"]).tolist() == [b"a", b"\xff"]
    with pytest.raises(TensorError) as caught:
        write_predict(head(), {"c": np.zeros(2, np.complex64)})
    assert caught.value.field == "c"


def test_what_is_unusual_is_read_by_protobuf():
    one = write_predict(Request(), {"x": np.arange(9)})
    two = write_predict(Request(), {"x": np.arange(5), "y": np.arange(3)})
    typed = Request()
    fill_proto(typed.inputs["x"], np.arange(4), content=False)
    for raw in (
        one + two,  # the later "x" wins
        two + one,
        one + typed.SerializeToString(),
        typed.SerializeToString() + one,
        one + b"\x98\x06\x01",  # an unknown number
        one + b"\xa3\x06\xa4\x06",  # an unknown group
        b"\xa2\x06\x02hi" + one,  # unknown bytes
        b"",
    ):
        found = read_predict(raw, Request)
        wanted = Request.FromString(raw)
        assert set(found.inputs) == set(wanted.inputs)
        for name in wanted.inputs:
            np.testing.assert_array_equal(
                array_from_proto(found.inputs[name]),
                array_from_proto(wanted.inputs[name]),
            )


# protobuf warns of an end-group tag and stops reading there.
@pytest.mark.filterwarnings("ignore:Unexpected end-group tag")
@hypothesis.given(st.data())
@hypothesis.settings(max_examples=400)
def test_damaged_bytes_are_read_as_protobuf_reads_them(data):
    raw = bytearray(
        write_predict(head(), {"x": np.arange(3), "y": np.ones(2)}, ["z"])
    )
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place] = data.draw(st.integers(0, 255))
    damaged = bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        wanted = Request.FromString(damaged)
    except DecodeError:
        with pytest.raises(DecodeError):
            read_predict(damaged, Request)
        return
    found = read_predict(damaged, Request)
    if isinstance(found, PredictView):
        assert found.model_spec == wanted.model_spec
        assert found.output_filter == wanted.output_filter
    assert {n: _value(p) for n, p in found.inputs.items()} == {
        n: _value(p) for n, p in wanted.inputs.items()
    }


def _value(proto):
    try:
        array = array_from_proto(proto)
    except (TensorError, ValueError, OverflowError) as error:
        return str(error)
    return array.dtype, array.shape, array.tobytes()
