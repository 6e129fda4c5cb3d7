"""The gRPC interface answers as TensorFlow Serving 2.16.1 was seen to."""

from __future__ import annotations

import threading
import time

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
)

from tests.serving import toy_model
from tests.serving.toy_calls import failure, make, outputs
from tests.serving.toy_model import score_request

pytestmark = [pytest.mark.tf, pytest.mark.conformance]


def test_predict_answers_by_the_formula(stub):
    ids = [10, -20, 2**62, 77]
    x = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    response = stub.Predict(score_request(ids, x))
    found = outputs(response)
    np.testing.assert_allclose(
        found["score"],
        toy_model.expected_scores(ids, x, toy_model.BIAS),
        rtol=1e-6,
    )
    assert found["row"].tolist() == [1, 2, 3, 0]
    assert response.model_spec.name == "toy"
    assert response.model_spec.version.value == 1
    assert response.model_spec.signature_name == "score"


def test_answers_come_in_typed_fields(stub):
    # Clients in other languages read float_val, not tensor_content.
    response = stub.Predict(score_request((10, -20)))
    score = response.outputs["score"]
    assert len(score.float_val) == 2 and not score.tensor_content
    assert list(response.outputs["row"].int64_val) == [1, 2]


def test_empty_signature_name_is_serving_default(stub):
    request = score_request()
    request.model_spec.signature_name = ""
    response = stub.Predict(request)
    assert response.model_spec.signature_name == "serving_default"


def test_typed_values_and_content_are_the_same_input(stub):
    typed = score_request((10,))
    del typed.inputs["x"]
    proto = typed.inputs["x"]
    proto.dtype = tf.float32.as_datatype_enum
    proto.tensor_shape.CopyFrom(tf.TensorShape([1, 5]).as_proto())
    proto.float_val.extend([1, 2, 3, 4, 5])
    content = score_request((10,), np.array([[1, 2, 3, 4, 5]], np.float32))
    assert content.inputs["x"].tensor_content
    assert stub.Predict(typed) == stub.Predict(content)


def test_one_value_fills_a_tensor(stub):
    request = score_request((10,))
    proto = request.inputs["x"]
    proto.ClearField("tensor_content")
    proto.float_val.append(2.0)
    x = np.full((1, 5), 2.0, np.float32)
    np.testing.assert_allclose(
        outputs(stub.Predict(request))["score"],
        toy_model.expected_scores([10], x, toy_model.BIAS),
    )


def test_output_filter_chooses(stub):
    request = score_request()
    request.output_filter.append("row")
    assert list(stub.Predict(request).outputs) == ["row"]


def test_missing_input(stub):
    request = score_request()
    del request.inputs["x"]
    code, text = failure(stub.Predict, request)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "Missing but required: {x}" in text


def test_extra_input(stub):
    request = score_request()
    request.inputs["zz"].CopyFrom(request.inputs["x"])
    code, text = failure(stub.Predict, request)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "Sent extra: {zz}" in text


def test_renamed_input(stub):
    request = score_request()
    request.inputs["y"].CopyFrom(request.inputs["x"])
    del request.inputs["x"]
    code, text = failure(stub.Predict, request)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "x" in text


def test_wrong_dtype(stub):
    assert failure(
        stub.Predict, score_request(x=np.ones((1, 5), np.float64))
    ) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "Expects arg[1] to be float but double is provided",
    )


def test_wrong_inner_dimension(stub):
    code, text = failure(
        stub.Predict, score_request(x=np.ones((1, 4), np.float32))
    )
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert text.startswith("Incompatible shapes: ")


def test_a_rank_that_the_graph_tolerates(stub):
    # Declared [None, None], sent [5]: broadcast, not refused.
    response = stub.Predict(score_request((10,), np.ones(5, np.float32)))
    assert outputs(response)["score"].shape == (1,)


def test_failed_assertion(stub):
    code, text = failure(
        stub.Predict, make("positive", x=np.array([-1], np.float32))
    )
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert text.startswith("assertion failed: [")


def test_unknown_signature(stub):
    assert failure(stub.Predict, score_request(signature="nosuch")) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        'Serving signature key "nosuch" not found.',
    )


def test_unknown_model(stub):
    assert failure(stub.Predict, score_request(model="nope")) == (
        grpc.StatusCode.NOT_FOUND,
        "Servable not found for request: Latest(nope)",
    )


def test_unknown_version(stub):
    request = score_request()
    request.model_spec.version.value = 99
    assert failure(stub.Predict, request) == (
        grpc.StatusCode.NOT_FOUND,
        "Servable not found for request: Specific(toy, 99)",
    )


def test_unknown_label(stub):
    request = score_request()
    request.model_spec.version_label = "stable"
    assert failure(stub.Predict, request) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "Unrecognized servable version label: stable",
    )


def test_bad_output_filter(stub):
    request = score_request()
    request.output_filter.append("nope")
    assert failure(stub.Predict, request) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "output tensor alias not found in signature: nope Outputs expected "
        "to be in the set {row,score}.",
    )


def test_empty_batch(stub):
    found = outputs(stub.Predict(score_request(())))
    assert found["score"].shape == (0,)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda p: setattr(p, "tensor_content", b"123"),
        lambda p: setattr(p, "dtype", tf.resource.as_datatype_enum),
        lambda p: setattr(p.tensor_shape.dim[0], "size", -1),
    ],
)
def test_unreadable_tensor(stub, spoil):
    request = score_request()
    spoil(request.inputs["x"])
    assert failure(stub.Predict, request) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "tensor parsing error: x",
    )


def test_deadline_cancels_the_graph(stub, toy):
    started = time.monotonic()
    code, _ = failure(
        stub.Predict, make("slow", n=np.int64(10**9)), timeout=0.3
    )
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - started < 5
    # The threads come free again: four of them, all would be taken.
    for _ in range(8):
        failure(stub.Predict, make("slow", n=np.int64(10**9)), timeout=0.05)
        time.sleep(0.1)
    assert stub.Predict(score_request(), timeout=10)


def test_more_calls_than_threads(stub, toy):
    if not toy.embedded:
        pytest.skip("the number of threads of that server is not known")
    codes = []

    def call():
        try:
            stub.Predict(make("slow", n=np.int64(10**9)), timeout=1.5)
        except grpc.RpcError as error:
            codes.append((error.code(), error.details()))

    threads = [threading.Thread(target=call) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "Server Threadpool Exhausted",
    )
    assert codes.count(refused) == 2
    assert sum(c is grpc.StatusCode.DEADLINE_EXCEEDED for c, _ in codes) == 4
    time.sleep(0.3)


def test_state_is_seen_by_later_calls(stub):
    stub.Predict(make("remember", v=np.array([5, 2**40], np.int64)))
    found = outputs(stub.Predict(make("recall", i=np.array([1, 0], np.int64))))
    assert found["value"].tolist() == [2**40, 5]


def test_strings_and_bytes(stub):
    values = [b"\xff\x00", "naïve".encode(), b""]
    found = outputs(stub.Predict(make("text", s=values)))
    assert found["plain"].tolist() == values
    assert found["raw_bytes"].tolist() == values


def test_non_finite_values(stub):
    found = outputs(
        stub.Predict(make("specials", x=np.array([0, -1, np.inf], np.float32)))
    )
    assert np.isneginf(found["y"][0])
    assert np.isnan(found["y"][1]) and np.isposinf(found["y"][2])


def test_large_messages(stub):
    # Eight megabytes: over gRPC's default limit in both directions.
    values = np.arange(-(10**6), 10**6, dtype=np.int64) << 30
    found = outputs(stub.Predict(make("echo", v=values)))
    np.testing.assert_array_equal(found["v"], values)


def test_metadata(stub):
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    request.model_spec.name = "toy"
    request.metadata_field.append("signature_def")
    reply = stub.GetModelMetadata(request)
    assert reply.model_spec.version.value == 1
    found = get_model_metadata_pb2.SignatureDefMap()
    assert reply.metadata["signature_def"].Unpack(found)
    score = found.signature_def["score"]
    assert set(score.inputs) == {"ids", "x"}
    assert score.inputs["x"].dtype == tf.float32.as_datatype_enum
    assert score.method_name == "tensorflow/serving/predict"


def test_metadata_accepts_one_field_only(stub):
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    request.model_spec.name = "toy"
    request.metadata_field.append("nope")
    code, text = failure(stub.GetModelMetadata, request)
    assert code == grpc.StatusCode.INVALID_ARGUMENT and "nope" in text


def test_status(channel):
    stub = model_service_pb2_grpc.ModelServiceStub(channel)
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "toy"
    (entry,) = stub.GetModelStatus(request).model_version_status
    states = get_model_status_pb2.ModelVersionStatus
    assert (entry.version, entry.state) == (1, states.AVAILABLE)
    request.model_spec.name = "nope"
    assert failure(stub.GetModelStatus, request) == (
        grpc.StatusCode.NOT_FOUND,
        "Could not find any versions of model nope",
    )


def test_an_unknown_rank_is_ignored(stub):
    request = score_request()
    expected = stub.Predict(request).outputs["score"]
    request.inputs["x"].tensor_shape.unknown_rank = True
    assert stub.Predict(request).outputs["score"] == expected


def test_a_label_in_a_status_request_is_ignored(channel):
    stub = model_service_pb2_grpc.ModelServiceStub(channel)
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "toy"
    request.model_spec.version_label = "nosuch"
    (entry,) = stub.GetModelStatus(request).model_version_status
    assert entry.version == 1


def test_concurrent_calls_do_not_mix(stub):
    failures = []

    def call(seed: int) -> None:
        generator = np.random.default_rng(seed)
        for _ in range(20):
            values = generator.integers(-(2**60), 2**60, 500)
            while True:
                try:
                    found = outputs(stub.Predict(make("echo", v=values)))
                    break
                except grpc.RpcError as error:  # four threads, many callers
                    if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED:
                        raise
            if not np.array_equal(found["v"], values):
                failures.append(seed)

    threads = [threading.Thread(target=call, args=(s,)) for s in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
