"""Versions come, go and fail without hurting calls in flight."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import pathlib
import shutil
import signal
import socket
import threading
import time

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.model_server import ServerConfig, StartupError, running, serve
from serving.model_server.app import ServerApp
from serving.model_server.model_manager import State
from tests.serving.toy_calls import Hold, make
from tests.serving.toy_model import export_toy, score_request, write_warmup

pytestmark = pytest.mark.tf

AVAILABLE, END = State.AVAILABLE, State.END


@contextlib.contextmanager
def served(base: pathlib.Path, **options):
    settings = {
        "model_name": "toy",
        "model_base_path": str(base),
        "port": 0,
        "rest_api_port": -1,
        "file_system_poll_wait_seconds": 0.05,
        **options,
    }
    with running(ServerConfig(**settings)) as app:
        with grpc.insecure_channel(app.grpc_target) as channel:
            yield app, channel


def score(channel, version=None, label=None) -> tuple[int, float]:
    """The version that answered, and the bias it added."""
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    request = score_request((10,), np.zeros((1, 5), np.float32))
    if version:
        request.model_spec.version.value = version
    if label:
        request.model_spec.version_label = label
    response = stub.Predict(request, timeout=30)
    return (
        response.model_spec.version.value,
        response.outputs["score"].float_val[0],
    )


def states(app) -> dict[int, State]:
    return {v: s.state for v, s in app.manager.status("toy").items()}


def wait_for(condition, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def bad_warmup() -> predict_pb2.PredictRequest:
    request = score_request()
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([1.0], tf.float64))
    return request


def test_swap_under_load_loses_no_request(tmp_path):
    export_toy(tmp_path, 1, bias=1.0)
    answers: list[tuple[int, float]] = []
    errors: list[Exception] = []
    stop = threading.Event()

    def load(channel) -> None:
        while not stop.is_set():
            try:
                answers.append(score(channel))
            except Exception as error:
                errors.append(error)

    with served(tmp_path, grpc_max_threads=16) as (app, channel):
        threads = [
            threading.Thread(target=load, args=(channel,)) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for version in (1, 2, 3, 4):
            if version > 1:
                export_toy(tmp_path, version, bias=float(version))
            wait_for(
                lambda v=version: (
                    states(app)
                    == {
                        **dict.fromkeys(range(1, v), END),
                        v: AVAILABLE,
                    }
                )
            )
            seen = len(answers)
            wait_for(lambda n=seen: errors or len(answers) >= n + 50)
        stop.set()
        for thread in threads:
            thread.join()
    assert not errors
    # Every answer is one version's own, and all versions had their time.
    assert set(answers) == {(v, float(v)) for v in (1, 2, 3, 4)}


def test_a_call_in_flight_finishes_on_the_old_version(tmp_path):
    export_toy(tmp_path, 1)
    hold = Hold(tmp_path)
    with served(tmp_path) as (app, channel):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        held = stub.Predict.future(hold.message(), timeout=60)
        wait_for(lambda: hold.runs)
        export_toy(tmp_path, 2)
        wait_for(lambda: states(app).get(2) == AVAILABLE)
        wait_for(lambda: states(app)[1] == State.UNLOADING)
        assert score(channel)[0] == 2
        assert not held.done()
        hold.release()
        assert held.result().model_spec.version.value == 1
        wait_for(lambda: states(app)[1] == END)


def test_other_folders_are_no_versions(tmp_path):
    export_toy(tmp_path, 3, bias=3.0)
    for name in ("4.tmp", "writing-5", "-6", "7a", "٨"):
        shutil.copytree(tmp_path / "3", tmp_path / name)
    (tmp_path / "9").write_text("a file")
    with served(tmp_path) as (app, channel):
        assert score(channel) == (3, 3.0)
        time.sleep(0.2)
        assert states(app) == {3: AVAILABLE}


def test_a_broken_version_leaves_the_old_one_serving(tmp_path):
    export_toy(tmp_path, 1, bias=1.0)
    with served(tmp_path) as (app, channel):
        (tmp_path / "2").mkdir()
        (tmp_path / "2" / "saved_model.pb").write_bytes(b"\xff\xffnonsense")
        wait_for(lambda: states(app).get(2) == END)
        assert score(channel) == (1, 1.0)
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = "toy"
        request.model_spec.version.value = 2
        (entry,) = stub.GetModelStatus(request).model_version_status
        assert entry.status.error_code != 0 and entry.status.error_message
        # Repaired under the same number, once the broken one was gone.
        shutil.rmtree(tmp_path / "2")
        wait_for(lambda: 2 not in states(app))
        export_toy(tmp_path, 2, bias=2.0)
        wait_for(lambda: states(app).get(2) == AVAILABLE)
        assert score(channel) == (2, 2.0)


def test_a_version_without_saved_model_fails(tmp_path):
    export_toy(tmp_path, 1)
    with served(tmp_path) as (app, channel):
        (tmp_path / "2").mkdir()
        wait_for(lambda: states(app).get(2) == END)
        assert score(channel)[0] == 1


def test_a_folder_without_versions_unloads_the_model(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    export_toy(base, 1, bias=1.0)
    with served(base) as (app, channel):
        # A folder that is away altogether may be a volume that comes back.
        base.rename(tmp_path / "away")
        time.sleep(0.3)
        assert score(channel) == (1, 1.0)
        (tmp_path / "away").rename(base)
        shutil.move(base / "1", tmp_path / "kept")
        wait_for(lambda: states(app) == {1: END})
        with pytest.raises(grpc.RpcError) as caught:
            score(channel)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        shutil.move(tmp_path / "kept", base / "1")
        wait_for(lambda: states(app) == {1: AVAILABLE})
        assert score(channel) == (1, 1.0)


def copied_slowly(source: pathlib.Path, to: pathlib.Path) -> threading.Thread:
    """Copies a version file by file, in the order that hurts."""

    def copy() -> None:
        to.mkdir()
        files = sorted(path for path in source.rglob("*") if path.is_file())
        for file in sorted(files, key=lambda path: path.suffix != ".pb"):
            place = to / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            with open(place, "wb") as out:
                for byte in (file.read_bytes()[:100], file.read_bytes()[100:]):
                    out.write(byte)
                    out.flush()
                    time.sleep(0.2)

    thread = threading.Thread(target=copy)
    thread.start()
    return thread


@pytest.mark.once
def test_a_version_that_is_still_being_copied_is_tried_again(tmp_path):
    """Also at the start, where a failing model ends the server otherwise."""
    base, first, second = (tmp_path / name for name in ("base", "a", "b"))
    for number, source in enumerate((first, second), 1):
        source.mkdir()
        export_toy(source, number, bias=float(number))
    base.mkdir()
    copying = copied_slowly(first / "1", base / "1")
    wait_for(lambda: (base / "1").exists())
    with served(base) as (app, channel):
        copying.join()
        assert score(channel) == (1, 1.0)
        copying = copied_slowly(second / "2", base / "2")
        wait_for(lambda: states(app).get(2) == END)
        assert score(channel) == (1, 1.0)
        wait_for(lambda: states(app).get(2) == AVAILABLE)
        copying.join()
        assert score(channel) == (2, 2.0)


def test_failing_warmup_leaves_the_old_one_serving(tmp_path):
    export_toy(tmp_path, 1, bias=1.0, warmup=[score_request()])
    with served(tmp_path) as (app, channel):
        export_toy(tmp_path, 2, warmup=[score_request(), bad_warmup()])
        wait_for(lambda: states(app).get(2) == END)
        status = app.manager.status("toy")[2]
        assert status.code is grpc.StatusCode.INVALID_ARGUMENT
        assert "warmup record 1" in status.message
        assert "Expects arg" in status.message
        assert score(channel) == (1, 1.0)
        export_toy(tmp_path, 3, bias=3.0)
        wait_for(lambda: states(app).get(3) == AVAILABLE)
        assert score(channel) == (3, 3.0)


def test_warmup_mutates_state(tmp_path):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "toy"
    request.model_spec.signature_name = "remember"
    request.inputs["v"].CopyFrom(tf.make_tensor_proto([11, 12], tf.int64))
    export_toy(tmp_path, 1, warmup=[request])
    recall = predict_pb2.PredictRequest()
    recall.model_spec.name = "toy"
    recall.model_spec.signature_name = "recall"
    recall.inputs["i"].CopyFrom(tf.make_tensor_proto([0, 1], tf.int64))
    with served(tmp_path) as (_, channel):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        value = stub.Predict(recall).outputs["value"]
        assert list(value.int64_val) == [11, 12]


def remembered(channel, version: int) -> list[int]:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    request = make("recall", i=np.array([0, 1], np.int64))
    request.model_spec.version.value = version
    return list(stub.Predict(request).outputs["value"].int64_val)


def test_state_belongs_to_a_version(tmp_path):
    export_toy(tmp_path, 1)
    with served(tmp_path) as (app, channel):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        stub.Predict(make("remember", v=np.array([5, 6], np.int64)))
        assert remembered(channel, 1) == [5, 6]
        export_toy(tmp_path, 2)
        wait_for(lambda: states(app).get(2) == AVAILABLE)
        # The new version holds what its checkpoint holds, nothing else.
        assert remembered(channel, 2) == [0, 0]


def failed_loads(app, version: int) -> int:
    """Attempts at a version that failed so far."""
    for line in app.metrics.page().splitlines():
        if "load_attempt_count" in line and 'status="fail"' in line:
            if f'/{version}"' in line:
                return int(float(line.rpartition(" ")[2]))
    return 0


def repair(version: pathlib.Path) -> None:
    """Takes away the warmup record that fails."""
    (version / "assets.extra" / "tf_serving_warmup_requests").unlink()


@pytest.mark.once
def test_newer_versions_queue_behind_retries(tmp_path):
    export_toy(tmp_path, 1, bias=1.0)
    retries = {
        "max_num_load_retries": 10**6,
        "load_retry_interval_micros": 50_000,
    }
    with served(tmp_path, **retries) as (app, channel):
        second = export_toy(tmp_path, 2, bias=2.0, warmup=[bad_warmup()])
        wait_for(lambda: failed_loads(app, 2) >= 1)
        export_toy(tmp_path, 3, bias=3.0)
        before = failed_loads(app, 2)
        wait_for(lambda: failed_loads(app, 2) >= before + 3)
        assert states(app) == {1: AVAILABLE, 2: State.LOADING}
        assert score(channel) == (1, 1.0)
        repair(second)
        wait_for(lambda: states(app).get(3) == AVAILABLE)
        assert score(channel) == (3, 3.0)
        wait_for(lambda: states(app) == {1: END, 2: END, 3: AVAILABLE})


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def listens(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


def test_ports_open_after_loading(tmp_path):
    first = export_toy(tmp_path, 1, warmup=[bad_warmup()])
    app = ServerApp(
        ServerConfig(
            model_name="toy",
            model_base_path=str(tmp_path),
            port=free_port(),
            rest_api_port=free_port(),
            max_num_load_retries=10**6,
            load_retry_interval_micros=50_000,
        )
    )
    ports = (app.config.port, app.config.rest_api_port)

    async def start_and_stop() -> None:
        loop = asyncio.get_running_loop()
        starting = asyncio.ensure_future(app.start())
        await loop.run_in_executor(
            None, wait_for, lambda: failed_loads(app, 1) >= 2
        )
        assert not any(map(listens, ports))
        repair(first)
        await starting
        assert await loop.run_in_executor(
            None, lambda: all(map(listens, ports))
        )
        await app.stop()

    asyncio.run(start_and_stop())


class Terminate(logging.Handler):
    """Asks this process to end as soon as a load has failed."""

    failures = 0

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("Loading toy version 1 failed"):
            self.failures += 1
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.once
def test_sigterm_ends_the_wait_for_the_next_attempt(tmp_path):
    export_toy(tmp_path, 1, warmup=[bad_warmup()])
    logger = logging.getLogger("serving.model_server.model_manager")
    handler = Terminate()
    logger.addHandler(handler)
    try:
        serve(
            ServerConfig(
                model_name="toy",
                model_base_path=str(tmp_path),
                port=0,
                rest_api_port=-1,
                max_num_load_retries=1,
                load_retry_interval_micros=20 * 10**6,
            )
        )
    finally:
        logger.removeHandler(handler)
    assert handler.failures == 1


def test_warmup_can_be_switched_off(tmp_path):
    path = export_toy(tmp_path, 1, warmup=[bad_warmup()])
    with served(tmp_path, enable_model_warmup=False) as (_, channel):
        assert score(channel)[0] == 1
    (path / "assets.extra" / "tf_serving_warmup_requests").write_bytes(
        b"not a TFRecord file"
    )
    with pytest.raises(StartupError, match="warmup"):
        with served(tmp_path):
            pass


@pytest.mark.once
def test_too_many_warmup_records(tmp_path):
    path = export_toy(tmp_path, 1)
    write_warmup(path, [score_request()] * 1001)
    with pytest.raises(StartupError, match="exceeds the maximum"):
        with served(tmp_path):
            pass


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda base: shutil.rmtree(base), "is not a folder"),
        (lambda base: shutil.rmtree(base / "1"), "no servable version below"),
        (
            lambda base: os.remove(base / "1" / "saved_model.pb"),
            "Could not find SavedModel",
        ),
        (
            lambda base: shutil.rmtree(base / "1" / "variables"),
            "version 1 cannot be loaded",
        ),
    ],
)
def test_a_failing_model_stops_the_start(tmp_path, toy_base, spoil, text):
    base = tmp_path / "base"
    shutil.copytree(toy_base, base)
    spoil(base)
    with pytest.raises(StartupError, match=text) as caught:
        with served(base):
            pass
    assert "\n" not in str(caught.value).split("[[")[0].strip()


def config_file(path: pathlib.Path, base: pathlib.Path, more: str) -> str:
    path.write_text(
        'model_config_list { config { name: "toy" '
        f'base_path: "{base}" model_platform: "tensorflow" {more} }} }}'
    )
    return str(path)


def test_policies_and_labels(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    for version in (1, 2, 5):
        export_toy(base, version, bias=float(version))

    def loaded(more: str) -> list[int]:
        file = config_file(tmp_path / "models.config", base, more)
        with served(base, model_base_path="", model_config_file=file) as (
            app,
            channel,
        ):
            assert score(channel)[0] == max(states(app))
            return sorted(states(app))

    assert loaded("") == [5]
    assert loaded("model_version_policy { latest { num_versions: 2 } }") == [
        2,
        5,
    ]
    assert loaded("model_version_policy { all {} }") == [1, 2, 5]
    specific = "model_version_policy { specific { versions: 1 versions: 2 } }"
    assert loaded(specific) == [1, 2]
    labels = (
        'version_labels { key: "stable" value: 1 } '
        'version_labels { key: "canary" value: 2 }'
    )
    file = config_file(tmp_path / "models.config", base, specific + labels)
    with served(base, model_base_path="", model_config_file=file) as (
        _,
        channel,
    ):
        assert score(channel, label="stable") == (1, 1.0)
        assert score(channel, label="canary") == (2, 2.0)
        assert score(channel, version=1) == (1, 1.0)
    wrong = specific + 'version_labels { key: "stable" value: 5 }'
    file = config_file(tmp_path / "models.config", base, wrong)
    with pytest.raises(StartupError, match="not currently available"):
        with served(base, model_base_path="", model_config_file=file):
            pass


def test_reload_config_by_grpc(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for number, base in enumerate((first, second), 1):
        base.mkdir()
        export_toy(base, number, bias=float(number))
    with served(first) as (app, channel):
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        request = model_management_pb2.ReloadConfigRequest()
        config = request.config.model_config_list.config.add()
        config.name, config.base_path = "toy", str(second)
        reply = stub.HandleReloadConfigRequest(request)
        assert reply.status.error_code == 0
        assert score(channel) == (2, 2.0)
        # Another model instead: the first one is gone.
        config.name = "other"
        assert stub.HandleReloadConfigRequest(request).status.error_code == 0
        with pytest.raises(grpc.RpcError) as caught:
            score(channel)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        # Two with one name are refused, and change nothing.
        request.config.model_config_list.config.add().CopyFrom(config)
        with pytest.raises(grpc.RpcError) as caught:
            stub.HandleReloadConfigRequest(request)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert app.manager.status("other")[2].state == AVAILABLE


def test_a_label_moves(tmp_path):
    for version in (1, 2):
        export_toy(tmp_path, version, bias=float(version))
    request = model_management_pb2.ReloadConfigRequest()
    config = request.config.model_config_list.config.add()
    config.name, config.base_path = "toy", str(tmp_path)
    config.model_version_policy.specific.versions.extend([1, 2])
    with served(tmp_path) as (_, channel):
        stub = model_service_pb2_grpc.ModelServiceStub(channel)

        for version in (1, 2):
            config.version_labels["stable"] = version
            assert not stub.HandleReloadConfigRequest(request).status.error_code
            assert score(channel, label="stable")[0] == version
        # To a version that is not there it does not move.
        config.version_labels["stable"] = 3
        with pytest.raises(grpc.RpcError) as caught:
            stub.HandleReloadConfigRequest(request)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert score(channel, label="stable") == (2, 2.0)


def test_config_file_is_read_again(tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    for version in (1, 2):
        export_toy(base, version, bias=float(version))
    one = "model_version_policy { specific { versions: 1 } }"
    file = config_file(tmp_path / "models.config", base, one)
    with served(
        base,
        model_base_path="",
        model_config_file=file,
        model_config_file_poll_wait_seconds=0.05,
    ) as (app, channel):
        assert score(channel) == (1, 1.0)
        pathlib.Path(file).write_text("nonsense {")
        time.sleep(0.2)
        assert score(channel) == (1, 1.0)
        config_file(tmp_path / "models.config", base, one.replace("1", "2"))
        wait_for(lambda: states(app).get(2) == AVAILABLE)
        assert score(channel) == (2, 2.0)


def resident_mb() -> float:
    gc.collect()
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.skipif(
    not os.path.exists("/proc/self/statm"), reason="needs Linux"
)
def test_unloading_gives_memory_back(tmp_path):
    export_toy(tmp_path, 1, ballast_mb=100)
    gc.collect()
    with served(tmp_path) as (app, channel):
        score(channel)
        before = resident_mb()
        for version in (2, 3, 4):
            export_toy(tmp_path, version, ballast_mb=100)
            wait_for(
                lambda v=version: (
                    states(app).get(v) == AVAILABLE
                    and states(app)[v - 1] == END
                )
            )
            score(channel)
            shutil.rmtree(tmp_path / str(version - 1))
        # Three more loads of 100 MB each: at most one may linger.
        assert resident_mb() - before < 150
