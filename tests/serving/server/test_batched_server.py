"""Batching as clients meet it: every signature, and all its consequences."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import pathlib
import shutil
import urllib.request

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.server import ServerConfig, StartupError, running
from tests.serving import toy_model

pytestmark = pytest.mark.tf

# A batch of two rows runs at once; a single row waits long enough for another
# to come, also on a busy machine.
PAIRS = """
max_batch_size { value: 2 }
batch_timeout_micros { value: 5000000 }
max_enqueued_batches { value: 1 }
num_batch_threads { value: 2 }
"""
FILLED = """
max_batch_size { value: 4 }
allowed_batch_sizes: 4
pad_variable_length_inputs: true
"""


class Server:
    """A running server, called by gRPC."""

    def __init__(self, app, channel: grpc.Channel) -> None:
        self.app = app
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    def start(self, signature: str, filters=(), **inputs) -> grpc.Future:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "toy"
        request.model_spec.signature_name = signature
        request.output_filter.extend(filters)
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
        return self._stub.Predict.future(request, timeout=30)

    def call(self, signature: str, **inputs) -> dict[str, list]:
        return answer(self.start(signature, **inputs))

    def refused(self, signature: str, **inputs) -> tuple[grpc.StatusCode, str]:
        return refusal(self.start(signature, **inputs))


def answer(call) -> dict[str, list]:
    return {
        name: tf.make_ndarray(tensor).tolist()
        for name, tensor in call.result().outputs.items()
    }


def refusal(call) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call.result()
    return caught.value.code(), caught.value.details()


@contextlib.contextmanager
def served(base: pathlib.Path, file: pathlib.Path, parameters: str, **options):
    file.write_text(parameters)
    config = ServerConfig(
        model_name="toy",
        model_base_path=str(base),
        port=0,
        rest_api_port=0,
        enable_batching=True,
        batching_parameters_file=str(file),
        file_system_poll_wait_seconds=0,
        grpc_max_threads=16,
        **options,
    )
    with running(config) as app:
        with grpc.insecure_channel(app.grpc_target) as channel:
            yield Server(app, channel)


@pytest.fixture(scope="module")
def pairs(toy_base, tmp_path_factory):
    file = tmp_path_factory.mktemp("pairs") / "batching_parameters.txt"
    with served(toy_base, file, PAIRS) as server:
        yield server


@pytest.fixture(scope="module")
def filled(toy_base, tmp_path_factory):
    file = tmp_path_factory.mktemp("filled") / "batching_parameters.txt"
    with served(toy_base, file, FILLED) as server:
        yield server


def ids(*values) -> np.ndarray:
    return np.array(values, np.int64)


def floats(*values) -> np.ndarray:
    return np.array(values, np.float32)


def test_calls_of_two_clients_are_one_run(pairs):
    first = pairs.start("echo", v=ids(1))
    second = pairs.start("echo", v=ids(2))
    assert answer(first) == {"v": [1]} and answer(second) == {"v": [2]}
    page = pairs.app.metrics.page()
    (line,) = [
        line
        for line in page.splitlines()
        if line.startswith('muse_server_batch_size_bucket{thread_pool_name="')
        and 'le="1"' in line
    ]
    assert line.endswith(" 0")  # no batch of one row has run


def test_rest_and_grpc_share_a_batch(pairs):
    def by_rest() -> dict:
        request = urllib.request.Request(
            f"{pairs.app.rest_url}/v1/models/toy:predict",
            json.dumps({"signature_name": "echo", "instances": [3]}).encode(),
        )
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.load(reply)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        other = pool.submit(by_rest)
        assert pairs.call("echo", v=ids(4)) == {"v": [4]}
        assert other.result() == {"predictions": [3]}


def test_signatures_are_not_mixed(pairs):
    first = pairs.start("echo", v=ids(1))
    assert pairs.call("recall", i=ids(0, 1))["value"]
    assert not first.done()
    assert pairs.call("echo", v=ids(2)) == {"v": [2]}
    assert answer(first) == {"v": [1]}


def test_another_choice_of_outputs_is_another_batch(pairs):
    def score(place: int, filters=()) -> grpc.Future:
        return pairs.start(
            "score",
            filters,
            ids=ids(toy_model.KEYS[place]),
            x=np.ones((1, 5), np.float32),
        )

    whole, rows = score(0), score(1, ["row"])
    assert answer(score(2, ["row"])) == {"row": [3]}
    assert answer(rows) == {"row": [2]} and not whole.done()
    assert set(answer(score(1))) == {"score", "row"}
    assert answer(whole)["row"] == [1]


def test_state_is_written_for_all_and_a_scalar_output_fails_afterwards(pairs):
    calls = [pairs.start("remember", v=ids(value)) for value in (31, 32)]
    for call in calls:
        assert refusal(call) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "Batched output tensor has 0 dimensions",
        )
    # One call saw, and wrote, the rows of both.
    assert sorted(pairs.call("recall", i=ids(0, 1))["value"]) == [31, 32]


def test_one_bad_call_fails_its_mates(pairs):
    good = pairs.start("positive", x=floats(1.0))
    bad = pairs.start("positive", x=floats(-1.0))
    for call in (good, bad):
        code, text = refusal(call)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert text.startswith("assertion failed: [")
    assert pairs.call("positive", x=floats(1, 2)) == {"y": [1.0, 2.0]}


def test_different_inner_sizes_fail(pairs):
    calls = [
        pairs.start("score", ids=ids(10), x=np.ones((1, width), np.float32))
        for width in (5, 4)
    ]
    for call in calls:
        code, text = refusal(call)
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert "padding is turned off" in text


def test_a_full_queue_refuses(pairs):
    first = pairs.start("echo", v=ids(1))
    code, text = pairs.refused("echo", v=ids(2, 3))
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "currently 1 batches enqueued" in text
    assert pairs.call("echo", v=ids(4)) == {"v": [4]}
    assert answer(first) == {"v": [1]}


def test_a_call_larger_than_a_batch(pairs):
    assert pairs.refused("echo", v=ids(1, 2, 3)) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "Task size 3 is larger than maximum input batch size 2",
    )


def test_an_input_without_rows_cannot_be_merged(pairs):
    assert pairs.refused("slow", n=np.int64(1)) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "Batching Run() input tensors must have at least one dimension",
    )


def test_filled_batches_write_copies_of_real_rows(filled):
    code, _ = filled.refused("remember", v=ids(5, 7, 9))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert filled.call("recall", i=ids(0, 1, 2, 3))["value"] == [5, 7, 9, 5]


def test_strings_are_merged_and_filled(filled):
    values = [b"\xff\x00", "naïve".encode(), b""]
    assert filled.call("text", s=values) == {
        "plain": values,
        "raw_bytes": values,
    }


def test_warmup_runs_through_batches(tmp_path, toy_base):
    base = tmp_path / "base"
    shutil.copytree(toy_base, base)
    toy_model.write_warmup(base / "1", [toy_model.score_request((10, -20))])
    with served(base, tmp_path / "parameters.txt", FILLED) as server:
        assert "muse_server_batch_size_count" in server.app.metrics.page()
    # Three rows do not fit a batch of two: the version does not load.
    toy_model.write_warmup(base / "1", [toy_model.score_request((1, 2, 3))])
    with pytest.raises(StartupError, match="warmup record 0.*Task size 3"):
        with served(base, tmp_path / "parameters.txt", PAIRS):
            pass


def test_a_model_chooses_for_itself(tmp_path, toy_base):
    base = tmp_path / "base"
    shutil.copytree(toy_base, base)
    file = tmp_path / "parameters.txt"
    with served(
        base, file, PAIRS, enable_per_model_batching_parameters=True
    ) as server:
        # It carries no parameters: nothing is merged.
        assert server.call("remember", v=ids(5, 6, 7)) == {"count": 3}
        assert server.call("echo", v=ids(1)) == {"v": [1]}
    parameters = base / "1" / "batching_params.pbtxt"
    parameters.write_text("max_batch_size { value: 1 }")
    with served(
        base, file, PAIRS, enable_per_model_batching_parameters=True
    ) as server:
        code, text = server.refused("echo", v=ids(1, 2))
        assert text.endswith("larger than maximum input batch size 1")
    parameters.write_text("max_batch_size { value: 0 }")
    with pytest.raises(StartupError, match="max_batch_size must be at least"):
        with served(
            base, file, PAIRS, enable_per_model_batching_parameters=True
        ):
            pass
