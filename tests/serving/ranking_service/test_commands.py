"""`muse service` and `muse serve --with-ranking`, as processes."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import types
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from typer.testing import CliRunner

from muse_tools.cli.ranking_beside import RankingBeside
from serving.client import MuseClientError, Timeouts, Tls
from serving.client.ranking import (
    RankingClient,
    RankingRequest,
    RankingResult,
)
from serving.model_server import ServerConfig
from serving.stores import open_store
from tests.serving import toy_matching, toy_muse
from tests.serving.certificates import make_certificates, ssl_config
from tests.serving.relay import Relay
from tests.serving.toy_store import LAYOUT

ROOT = pathlib.Path(__file__).parents[3]
START_S = 200.0
EXACT = {"cached", "full"}
MUSE = "from muse_tools.cli import main; main.run()"


@contextlib.contextmanager
def muse(folder: pathlib.Path, *arguments: str) -> Iterator[subprocess.Popen]:
    """Runs a command with its output in files."""
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-c", MUSE, *arguments],
            cwd=ROOT,
            stdout=out,
            stderr=err,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until(
    found: Callable[[], object], process: subprocess.Popen, folder: pathlib.Path
) -> None:
    ends = time.monotonic() + START_S
    while not found():
        error = (folder / "err").read_text()[-2000:]
        assert process.poll() is None, error
        assert time.monotonic() < ends, error
        time.sleep(0.05)


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def post(url: str, body: dict) -> dict:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def level(page: str, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", page, re.M)
    assert found, page
    return float(found.group(1))


def test_service_serves_and_answers_what_is_in_flight(site, tmp_path):
    request = site.request(10)
    expected = toy_muse.expected_score(request)
    relay = Relay(site.model_server)
    ports = tmp_path / "ports.json"
    with (
        contextlib.closing(relay),
        muse(
            tmp_path,
            *("service", "--store", site.store, "--target", relay.address),
            *("--port", "0", "--rest-port", "0", "--deadline-ms", "8000"),
            *("--port-file", str(ports)),
        ) as process,
    ):
        until(ports.exists, process, tmp_path)
        found = json.loads(ports.read_text())
        assert found["pid"] == process.pid
        target = f"127.0.0.1:{found['port']}"
        url = f"http://127.0.0.1:{found['rest_port']}"
        until(
            lambda: "Ctrl-C" in (tmp_path / "out").read_text(),
            process,
            tmp_path,
        )
        words = (tmp_path / "out").read_text()
        assert target in words and f"{url}/v1/rank" in words
        assert get(f"{url}/readyz")[0] == 200
        with (
            grpc.insecure_channel(target) as channel,
            RankingClient(target, timeouts=Timeouts(call=20)) as client,
        ):
            health = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=20
            )
            assert health.status == health_pb2.HealthCheckResponse.SERVING
            asked = RankingRequest(request.user_id, request.candidate_item_ids)
            by_grpc = client.rank(asked)
            # The first one may be too slow to wait for its prefetch.
            assert by_grpc.path in EXACT, by_grpc.stages
            np.testing.assert_allclose(
                by_grpc.click_probability, expected, atol=1e-5
            )
            by_rest = post(
                f"{url}/v1/rank",
                {
                    "user_id": request.user_id,
                    "candidate_item_ids": request.candidate_item_ids.tolist(),
                },
            )
            np.testing.assert_allclose(
                by_rest["click_probability"], expected, atol=1e-5
            )

            relay.hold()
            late: list[RankingResult] = []
            caller = threading.Thread(
                target=lambda: late.append(client.rank(asked))
            )
            caller.start()
            until(
                lambda: level(
                    get(f"{url}/metrics")[1], "muse_ranking_in_flight"
                ),
                process,
                tmp_path,
            )
            process.send_signal(signal.SIGTERM)
            until(
                lambda: get(f"{url}/readyz")[0] == 503,
                process,
                tmp_path,
            )
            relay.release()
            caller.join(60)
        (answer,) = late
        assert answer.path in EXACT, answer.stages
        np.testing.assert_allclose(
            answer.click_probability, expected, atol=1e-5
        )
        assert process.wait(60) == 0
        assert not ports.exists()
    # Logs are JSON, also those of the command.
    lines = [json.loads(x) for x in (tmp_path / "err").read_text().splitlines()]
    ranked = [line for line in lines if line["message"] == "ranked"]
    assert [line["path"] for line in ranked] == [
        by_grpc.path,
        by_rest["path"],
        answer.path,
    ]


@pytest.fixture
def encryption(tmp_path) -> tuple[list[str], Tls | None]:
    """Options of `muse serve`, both sides with certificates, and a client's.

    Plain text where no certificates can be made.
    """
    if not shutil.which("openssl"):
        return [], None
    pem = make_certificates(tmp_path)
    tls = Tls(
        ca_file=str(pem / "ca.pem"),
        certificate_file=str(pem / "client.pem"),
        key_file=str(pem / "client.key"),
    )
    options = [
        *("--ssl-config-file", str(ssl_config(pem, tmp_path, True))),
        *("--target-ca-file", str(tls.ca_file)),
        *("--target-certificate-file", str(tls.certificate_file)),
        *("--target-key-file", str(tls.key_file)),
    ]
    return options, tls


@pytest.mark.once
def test_serve_with_ranking_is_not_worse_while_it_stops(
    site, models_config, tmp_path, encryption
):
    options, tls = encryption
    request = site.request(10)
    answers: list[RankingResult] = []
    with muse(
        tmp_path,
        *("serve", "--model-config-file", str(models_config)),
        *("--port", "0", "--rest-port", "0", "--with-ranking"),
        *("--store", site.store),
        *("--ranking-port", "0", "--ranking-rest-port", "0"),
        *options,
    ) as process:
        until(
            lambda: "/v1/rank\n" in (tmp_path / "out").read_text(),
            process,
            tmp_path,
        )
        words = (tmp_path / "out").read_text()
        assert ("(TLS)" in words) == (tls is not None)
        words = words[words.index("Ranking service") :]
        target = re.search(r"gRPC +(\S+:\d+)", words).group(1)
        assert ("https://127" in words) == (tls is not None)

        def ask() -> None:
            asked = RankingRequest(request.user_id, deadline_ms=5000)
            with (
                RankingClient(
                    target, timeouts=Timeouts(call=20), tls=tls
                ) as client,
                contextlib.suppress(MuseClientError),
            ):
                while True:  # Until it is refused.
                    answers.append(client.rank(asked))

        callers = [threading.Thread(target=ask) for _ in range(4)]
        for caller in callers:
            caller.start()
        until(lambda: len(answers) > 20, process, tmp_path)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, (tmp_path / "err").read_text()[-2000:]
        for caller in callers:
            caller.join(60)
    items, _ = toy_matching.expected(request.behavior_item_ids)
    worse = [answer for answer in answers if answer.path not in EXACT]
    assert not worse, worse[0].stages
    assert {answer.candidates_from for answer in answers} == {"matching"}
    assert answers[0].candidate_item_ids.tolist() == items


def test_options_of_the_service_are_its_settings(monkeypatch, tmp_path):
    import serving.ranking_service
    from muse_tools.cli.commands import app

    seen: list[serving.ranking_service.ServiceConfig] = []
    monkeypatch.setattr(
        serving.ranking_service,
        "run_until_signal",
        lambda config, on_ready: seen.append(config),
    )
    monkeypatch.setattr(
        "serving.ranking_service.records.log_to_stderr", lambda: None
    )
    runner = CliRunner()
    store = f"lmdb:{tmp_path}"
    open_store(store, LAYOUT).close()
    done = runner.invoke(
        app,
        [
            *("service", "--store", store, "--target", "a:1"),
            *("--target", "b:2", "--model", "m", "--matching-model", ""),
            *("--target-ca-file", "ca.pem", "--target-server-name", "name"),
            *("--host", "0.0.0.0", "--port", "-1", "--rest-port", "7"),
            *("--ssl-config-file", "ssl", "--port-file", "ports"),
            *("--deadline-ms", "55", "--max-concurrent", "3"),
            *("--max-queue", "4", "--traces", "console", "--quiet"),
        ],
    )
    assert done.exit_code == 0, done.output
    assert seen[0] == serving.ranking_service.ServiceConfig(
        store=store,
        targets=("a:1", "b:2"),
        model="m",
        matching_model="",
        target_tls=Tls(ca_file="ca.pem", server_name="name"),
        host="0.0.0.0",  # noqa: S104
        port=-1,
        rest_port=7,
        ssl_config_file="ssl",
        port_file="ports",
        deadline_ms=55,
        max_concurrent=3,
        max_queue=4,
        traces="console",
        log_requests=False,
    )
    assert runner.invoke(app, ["service"]).exit_code == 0
    assert seen[1] == serving.ranking_service.ServiceConfig()
    done = runner.invoke(app, ["service", "--target-key-file", "key.pem"])
    assert done.exit_code == 2 and "go together" in done.output


def test_serve_ends_with_its_ranking_service(tmp_path, monkeypatch, capfd):
    told = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: told.set())
    app = types.SimpleNamespace(
        grpc_target="127.0.0.1:1",
        base_paths={"muse": ""},
        config=ServerConfig(),
    )
    try:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            beside = RankingBeside(
                app,
                str(tmp_path),
                store="",
                host="127.0.0.1",
                port=-1,
                rest_port=taken.getsockname()[1],
                model="muse",
                target_tls=None,
                ssl_config_file="",
            )
            assert told.wait(START_S)
        assert beside.failed
        beside.stop()
    finally:
        signal.signal(signal.SIGTERM, before)
    *logged, error = capfd.readouterr().err.splitlines()
    assert error.startswith("error: the ranking service: ")
    assert "address already in use" in error.lower()
    for line in logged:  # No traceback, only logs.
        json.loads(line)


PARENT = """
import sys, time, types
from serving.model_server import ServerConfig
from muse_tools.cli.ranking_beside import RankingBeside
app = types.SimpleNamespace(
    grpc_target="127.0.0.1:1", base_paths={"muse": ""}, config=ServerConfig()
)
RankingBeside(
    app, sys.argv[1], store="", host="127.0.0.1", port=-1, rest_port=0,
    model="muse", target_tls=None, ssl_config_file="",
)
time.sleep(600)
"""


def test_no_ranking_service_is_left_behind(tmp_path):
    ports = tmp_path / "ranking.json"
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    ends = time.monotonic() + START_S
    try:
        while not ports.exists():
            assert process.poll() is None and time.monotonic() < ends
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    # A service that stops in order removes its file.
    while ports.exists():
        assert time.monotonic() < ends
        time.sleep(0.05)
