"""State and unusual signatures work as TensorFlow Serving was seen to."""

from __future__ import annotations

import grpc
import numpy as np
import pytest

from tests.serving.toy_calls import failure, make, outputs

pytestmark = [pytest.mark.tf, pytest.mark.conformance]


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def recall(stub) -> list[int]:
    reply = stub.Predict(make("recall", i=ids(0, 1, 2, 3)))
    return outputs(reply)["value"].tolist()


def test_both_protocols_see_the_same_state(stub, rest):
    stub.Predict(make("remember", v=ids(3, 4)))
    body = {"signature_name": "recall", "inputs": [0, 1]}
    assert rest.predict(body) == (200, {"outputs": [3, 4]})
    body = {"signature_name": "remember", "inputs": [8, 2**53 + 1]}
    assert rest.predict(body)[0] == 200
    assert recall(stub) == [8, 2**53 + 1, 0, 0]


def test_rows_and_slices_are_assigned(stub, rest):
    stub.Predict(make("remember", v=ids(1, 2, 3, 4)))
    stub.Predict(make("scatter", i=ids(0, 1, 2, 3), v=floats(0, 0, 0, 0)))
    stub.Predict(make("scatter", i=ids(3, 1), v=floats(-7, 5)))
    found = outputs(stub.Predict(make("scattered", i=ids(0, 1, 2, 3))))
    assert found["bytes"].tolist() == [0, 5, 0, -7]
    assert found["halves"].tolist() == [0, 5, 0, -7]
    assert recall(stub) == [1, 2, 4, 4]  # the slice holds 3 + 1
    body = {"signature_name": "scattered", "inputs": [3]}
    assert rest.predict(body) == (
        200,
        {"outputs": {"bytes": [-7], "halves": [-7.0]}},
    )


def test_a_failed_call_keeps_its_assigns(stub, rest):
    stub.Predict(make("remember", v=ids(0)))
    code, text = failure(stub.Predict, make("remember_and_fail", v=ids(6, 7)))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert text.startswith("assertion failed: [not today]")
    assert recall(stub) == [6, 7, 0, 0]
    body = {"signature_name": "remember_and_fail", "instances": [9]}
    assert rest.error(body)[0] == 400
    assert recall(stub) == [9, 0, 0, 0]


def test_a_signature_needs_an_output(stub, rest):
    stub.Predict(make("remember", v=ids(1, 1)))
    text = "Must specify at least one target to fetch or execute."
    assert failure(stub.Predict, make("remember_only", v=ids(2))) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        text,
    )
    body = {"signature_name": "remember_only", "inputs": [2]}
    assert rest.error(body) == (400, text)
    assert recall(stub) == [1, 1, 0, 0]  # nothing ran


def test_rest_needs_an_input(stub, rest):
    assert outputs(stub.Predict(make("no_input")))["y"].tolist() == [1.5]
    for body in ({"inputs": {}}, {"instances": [{}]}):
        status, text = rest.error({"signature_name": "no_input", **body})
        assert status == 400 and "no_input" in text


@pytest.mark.parametrize("width", [1, 3, 4])
def test_a_declared_size_is_not_enforced(stub, rest, width):
    x = np.ones((2, width), np.float32)
    found = outputs(stub.Predict(make("three_wide", x=x)))
    assert found["y"].tolist() == [width, width]
    body = {"signature_name": "three_wide", "instances": x.tolist()}
    assert rest.predict(body) == (200, {"predictions": [width, width]})


def test_a_graph_may_batch_inside(stub):
    found = outputs(stub.Predict(make("batched_inside", v=ids(5, -6))))
    assert found["v"].tolist() == [-5, 6]
    assert found["rows"].tolist() == [8, 8]  # filled up, and cut again
