"""Clients that send too much, too slowly or malformed data, or disconnect."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import gzip
import http.client
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from serving.model_server import ServerConfig, running
from tests.serving.toy_calls import Hold
from tests.serving.toy_model import score_request

pytestmark = [pytest.mark.once, pytest.mark.tf]

LIMIT = 2**20
PREDICT = "/v1/models/toy:predict"
SERVICES = {
    "PredictionService": (
        "Predict",
        "GetModelMetadata",
    ),
    "ModelService": ("GetModelStatus", "HandleReloadConfigRequest"),
}


@pytest.fixture(scope="module")
def server(toy_base) -> Iterator:
    config = ServerConfig(
        model_name="toy",
        model_base_path=str(toy_base),
        port=0,
        rest_api_port=0,
        max_request_bytes=LIMIT,
        rest_api_timeout_in_ms=60_000,
        rest_api_num_threads=1,
        rest_api_max_waiting=2,
        grpc_max_threads=5,
        file_system_poll_wait_seconds=0,
    )
    with running(config) as app:
        yield app


@pytest.fixture(scope="module")
def channel(server) -> Iterator[grpc.Channel]:
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.grpc_target, options) as channel:
        yield channel


def send(app, body, path: str = PREDICT, **headers: str) -> tuple[int, dict]:
    connection = http.client.HTTPConnection(
        "127.0.0.1", app.rest_port, timeout=20
    )
    try:
        connection.request("POST", path, body, headers)
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()


def raw(app, data: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", app.rest_port), 20)
    connection.sendall(data)
    return connection


def head(body: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return (
        f"POST {PREDICT} HTTP/1.1\r\nHost: test\r\n"
        f"Content-Length: {size}\r\n\r\n"
    ).encode() + body


def answers(app) -> bool:
    body = b'{"signature_name": "echo", "instances": [7]}'
    return send(app, body) == (200, {"predictions": [7]})


@pytest.fixture
def hold(tmp_path) -> Iterator[Hold]:
    """Calls that run until they are let go, at the latest after the test."""
    held = Hold(tmp_path)
    yield held
    held.release()


def gauge(app, name: str, entrypoint: str) -> float:
    start = f'muse_server_requests_{name}{{entrypoint="{entrypoint}"}} '
    for line in app.metrics.page().splitlines():
        if line.startswith(start):
            return float(line.removeprefix(start))
    return 0.0


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)


def idle(app) -> bool:
    return all(
        gauge(app, name, protocol) == 0
        for name in ("in_flight", "waiting")
        for protocol in ("REST", "GRPC")
    )


def test_a_message_over_the_limit(server, channel):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(score_request(x=np.ones((1, LIMIT), np.float32)))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(LIMIT) in caught.value.details()
    assert stub.Predict(score_request()).outputs


@pytest.mark.parametrize("told", [True, False])
def test_a_body_over_the_limit(server, told):
    size = LIMIT + 1
    body = b" " * size if told else iter([b" " * 1000] * (size // 1000 + 1))
    assert send(server, body) == (
        413,
        {
            "error": f"Request body is larger than {LIMIT} bytes, the limit "
            f"of this server (--max_request_bytes)"
        },
    )
    assert answers(server)


def test_refusals_are_counted(server, toy_base):
    before = gauge(server, "refused_total", "REST")
    assert send(server, b" " * (LIMIT + 1))[0] == 413
    assert gauge(server, "refused_total", "REST") == before + 1
    with running(server.config) as app:
        for dispatcher in app._dispatchers:
            asyncio.run(dispatcher.drain(0))
        assert send(app, b"{}")[0] == 503
        with grpc.insecure_channel(app.grpc_target) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            with pytest.raises(grpc.RpcError) as caught:
                stub.Predict(score_request())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        for protocol in ("REST", "GRPC"):
            assert gauge(app, "refused_total", protocol) == 1


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
@pytest.mark.parametrize("host", ["::1", "[::1]", "::"])
def test_ipv6(server, host):
    config = dataclasses.replace(server.config, host=host)
    with running(config) as app:
        assert app.grpc_target == f"[{host.strip('[]')}]:{app.grpc_port}"
        assert app.rest_url == f"http://[{host.strip('[]')}]:{app.rest_port}"
        with grpc.insecure_channel(f"[::1]:{app.grpc_port}") as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            assert stub.Predict(score_request(), timeout=20).outputs
        connection = http.client.HTTPConnection("::1", app.rest_port)
        connection.request("GET", "/v1/models/toy")
        assert connection.getresponse().status == 200
        connection.close()


def test_a_body_at_the_limit(server):
    body = b'{"signature_name": "echo", "instances": [7]}'
    assert send(server, body.ljust(LIMIT))[0] == 200


def test_compressed_bodies(server):
    gzipped = {"Content-Encoding": "gzip"}
    body = gzip.compress(b'{"signature_name": "echo", "instances": [7]}')
    assert send(server, body, **gzipped) == (200, {"predictions": [7]})
    bomb = gzip.compress(b" " * (100 * LIMIT))
    assert len(bomb) < LIMIT
    assert send(server, bomb, **gzipped)[0] == 413
    for broken in (b"nonsense", body[:-9]):
        status, found = send(server, broken, **gzipped)
        assert status == 400 and "is not gzip" in found["error"]
    assert send(server, body, **{"Content-Encoding": "br"})[0] == 415


def test_a_body_that_does_not_come(server):
    config = dataclasses.replace(
        server.config, port=-1, rest_api_timeout_in_ms=200
    )
    with running(config) as app:
        with raw(app, head(b"{", 100)) as connection:
            reply = connection.recv(4096)
        assert reply.startswith(b"HTTP/1.1 408 ")
        assert b"did not come within 0.2 s" in reply


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET " + b"/a" * 10_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        head(b"", -5),
        f"POST {PREDICT} HTTP/1.1\r\nHost: test\r\n"
        "Transfer-Encoding: chunked\r\n\r\nzz\r\n".encode(),
    ],
)
def test_what_is_not_http(server, data):
    with raw(server, data) as connection:
        assert connection.recv(4096).startswith((b"HTTP/1.1 400", b"HTTP/1.0"))
    assert answers(server)


NESTS: dict[str, Callable[[int], bytes]] = {
    "open": lambda n: b'{"instances":' + b"[" * n,
    "rows": lambda n: (
        b'{"signature_name":"echo","instances":'
        + (b"[" * n + b"1" + b"]" * n)
        + b"}"
    ),
    "columns": lambda n: (
        b'{"signature_name":"echo","inputs":'
        + (b"[" * n + b"1" + b"]" * n)
        + b"}"
    ),
    "integers": lambda n: (
        b'{"signature_name":"echo","inputs":'
        + (b"[" * n + b"1," * 3000 + b"1" + b"]" * n)
        + b"}"
    ),
    "not a number": lambda n: (
        b'{"signature_name":"specials","inputs":'
        + (b"[" * n + b"NaN" + b"]" * n)
        + b"}"
    ),
    "objects": lambda n: (
        b'{"instances":[' + b'{"a":' * n + b"1" + b"}" * n + b"]}"
    ),
    "both keys": lambda n: (
        b'{"inputs":1,"instances":' + b'{"a":' * n + b"1" + b"}" * n + b"}"
    ),
}


@pytest.mark.parametrize("method", ["Classify", "Regress", "MultiInference"])
def test_methods_for_examples_are_not_there(server, method):
    with grpc.insecure_channel(server.grpc_target) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        call = channel.unary_unary(
            f"/tensorflow.serving.PredictionService/{method}"
        )
        assert hasattr(stub, method)
        with pytest.raises(grpc.RpcError) as caught:
            call(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    status, found = send(server, b"{}", f"/v1/models/toy:{method.lower()}")
    assert status == 400 and "Malformed request" in found["error"]


@pytest.mark.parametrize("depth", [40, 500, 1000, 30_000])
@pytest.mark.parametrize("kind", NESTS)
def test_deep_json(server, kind, depth):
    status, found = send(server, NESTS[kind](depth))
    assert status == 400 and set(found) == {"error"}


@given(st.binary(max_size=300))
@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_body_is_answered(server, body):
    status, found = send(server, body)
    assert status == 400 and set(found) == {"error"}


@pytest.mark.parametrize(
    ("service", "method"),
    [(name, method) for name in SERVICES for method in SERVICES[name]],
)
def test_a_message_that_is_none(channel, caplog, service, method):
    call = channel.unary_unary(f"/tensorflow.serving.{service}/{method}")
    with caplog.at_level(logging.ERROR):
        for data in (b"\xff\xff\xff", b"\x0a\x05ab", b"\x0c"):
            with pytest.raises(grpc.RpcError) as caught:
                call(data, timeout=20)
            assert caught.value.code() is grpc.StatusCode.INTERNAL
            assert caught.value.details() == (
                f"Failed to parse the request of {method}"
            )
    assert not caplog.records  # no traceback for each of them


@given(st.data())
@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_message_is_answered(channel, data):
    good = score_request((10, -20)).SerializeToString()
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, len(good)))
    message = good[:start] + data.draw(st.binary(max_size=20)) + good[end:]
    call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    try:
        reply = predict_pb2.PredictResponse.FromString(
            call(message, timeout=20)
        )
    except grpc.RpcError as error:
        assert error.code() in {
            grpc.StatusCode.INTERNAL,
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.NOT_FOUND,
            grpc.StatusCode.FAILED_PRECONDITION,
        }
        assert "see the log" not in error.details()
    else:
        assert reply.model_spec.name == "toy"


def test_no_more_wait_than_allowed(server, hold):
    wait_for(lambda: idle(server))
    before = gauge(server, "refused_total", "REST")
    with raw(server, head(hold.body())):
        wait_for(lambda: gauge(server, "in_flight", "REST") == 1)
        waiting = [raw(server, head(hold.body())) for _ in range(2)]
        wait_for(lambda: gauge(server, "waiting", "REST") == 2)
        status, found = send(server, hold.body())
        assert (status, found["error"]) == (429, "Server Threadpool Exhausted")
        assert gauge(server, "refused_total", "REST") == before + 1
        for connection in waiting:
            connection.close()
    hold.release()
    wait_for(lambda: idle(server))
    assert answers(server)


def test_calls_of_clients_that_left_do_not_run(server, hold):
    wait_for(lambda: idle(server))
    with raw(server, head(hold.body())):
        wait_for(lambda: gauge(server, "in_flight", "REST") == 1)
        left = raw(server, head(hold.body()))
        wait_for(lambda: gauge(server, "waiting", "REST") == 1)
        left.close()
        # It would have waited for the first, which goes on.
        wait_for(lambda: gauge(server, "waiting", "REST") == 0)
        assert gauge(server, "in_flight", "REST") == 1
    hold.release()
    wait_for(lambda: idle(server))


def test_slow_rest_calls_do_not_hold_up_grpc_and_status(server, channel, hold):
    wait_for(lambda: idle(server))
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    with raw(server, head(hold.body())):
        wait_for(lambda: gauge(server, "in_flight", "REST") == 1)
        assert stub.Predict(score_request(), timeout=20).outputs
        connection = http.client.HTTPConnection("127.0.0.1", server.rest_port)
        for path in ("/v1/models/toy", "/monitoring/prometheus/metrics"):
            connection.request("GET", path)
            reply = connection.getresponse()
            assert reply.status == 200 and reply.read()
        connection.close()
        assert gauge(server, "in_flight", "REST") == 1
    hold.release()
    wait_for(lambda: idle(server))


def test_a_canceled_grpc_call_gives_its_place_back(server, channel, hold):
    wait_for(lambda: idle(server))
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    calls = [stub.Predict.future(hold.message(), timeout=60) for _ in range(4)]
    wait_for(lambda: gauge(server, "in_flight", "GRPC") == 4)
    for call in calls:
        call.cancel()
    hold.release()
    wait_for(lambda: idle(server))
    assert stub.Predict(score_request(), timeout=20).outputs


def open_files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs Linux")
def test_connections_leave_no_files_open(server):
    body = b'{"signature_name": "echo", "instances": [7]}'

    def visit() -> None:
        raw(server, head(body)).close()  # gone before the answer
        raw(server, b"POST /v1").close()  # half a request
        half = raw(server, head(body))
        half.shutdown(socket.SHUT_WR)  # says no more, but listens
        half.close()
        assert answers(server)
        with grpc.insecure_channel(
            server.grpc_target, [("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(
                score_request(), timeout=20
            )

    for _ in range(3):
        visit()
    before = open_files()
    for _ in range(20):
        visit()
    wait_for(lambda: open_files() <= before + 5)


def test_many_idle_connections_do_not_stop_others(server):
    idlers = [raw(server, b"POST /v1") for _ in range(200)]
    assert answers(server)
    for connection in idlers:
        connection.close()


def test_threads_stay_within_their_pools(server):
    before = threading.active_count()
    for _ in range(30):
        assert answers(server)
    assert threading.active_count() <= before + 1


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="needs Linux")
def test_only_this_machine_is_answered_unless_asked_for(server):
    """Linux answers at all of 127.*, but for what is bound to one address."""
    assert server.config.host == ServerConfig().host  # the default
    for port in (server.grpc_port, server.rest_port):
        for host, reached in (("127.0.0.1", True), ("127.0.0.2", False)):
            with socket.socket() as caller:
                assert (caller.connect_ex((host, port)) == 0) == reached
