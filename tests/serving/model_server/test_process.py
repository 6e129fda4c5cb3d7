"""The server as a process: flags in, ports out, a clean end."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from serving.client import (
    MuseClient,
    MuseClientError,
    Retry,
    Timeouts,
    UnavailableError,
)
from serving.model_server.main import main
from tests.serving.toy_calls import Hold, Rest

pytestmark = pytest.mark.tf

ROOT = pathlib.Path(__file__).parents[3]


def start(*flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "serving.model_server", *flags],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)


def until_refused(client: MuseClient) -> Exception:
    """Calls until a call fails."""
    try:
        while True:
            client.predict("echo", {"v": np.array([7])})
    except MuseClientError as error:
        return error


COMMANDS = {
    "flags": (
        "from serving.model_server.main import main; code = main([*{flags}])",
        "_",
    ),
    "muse": (
        "from muse_tools.cli.main import run\n"
        "sys.argv = ['muse', 'serve', *{flags}]\n"
        "try: run()\n"
        "except SystemExit as done: code = done.code",
        "-",
    ),
}


@pytest.mark.parametrize(
    ("command", "options", "words"),
    [
        (
            "muse",
            {"model_base_path": "{tmp}/nosuch"},
            "/nosuch/<number>/saved_model.pb",
        ),
        ("flags", {"model_base_path": "{tmp}"}, "no servable version below"),
        ("muse", {"port": "{taken}"}, "cannot listen on 127.0.0.1:{taken}: A"),
        (
            "flags",
            {"port": "0", "rest_api_port": "{taken}"},
            "Address already in use (choose another --rest",
        ),
        ("muse", {"model_config_file": "{tmp}/no"}, "/no: cannot be read"),
        ("flags", {"ssl_config_file": "{tmp}/no"}, "/no: cannot be read"),
    ],
)
def test_what_is_wrong_is_found_without_tensorflow(
    command, options, words, toy_base, tmp_path
):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        known = {"tmp": tmp_path, "taken": taken.getsockname()[1]}
        if "model_config_file" not in options:
            options = {"model_base_path": toy_base, **options}
        code, dash = COMMANDS[command]
        flags = [
            f"--{name.replace('_', dash)}={str(value).format(**known)}"
            for name, value in options.items()
        ]
        code = code.format(flags=flags)
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                f"import sys\n{code}\nassert 'tensorflow' not in sys.modules"
                "\nsys.exit(code)",
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    (line,) = (
        line for line in done.stderr.splitlines() if line.startswith("error: ")
    )
    assert done.returncode == 1 and words.format(**known) in line, done.stderr


def test_sigterm_drains(toy_base, tmp_path):
    ports = tmp_path / "ports.json"
    server = start(
        "--model_name=toy",
        f"--model_base_path={toy_base}",
        "--port=0",
        "--rest_api_port=0",
        f"--port_file={ports}",
    )
    try:
        deadline = time.monotonic() + 90
        while not ports.exists():
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        found = json.loads(ports.read_text())
        assert found["pid"] == server.pid
        target = f"127.0.0.1:{found['port']}"
        hold = Hold(tmp_path)
        with (
            MuseClient(
                target,
                model="toy",
                timeouts=Timeouts(call=60, total=60),
                retry=Retry(attempts=1),
            ) as client,
            ThreadPoolExecutor(8) as pool,
        ):
            call = pool.submit(
                client.predict, "hold", {"file": np.array(hold.file, object)}
            )
            others = [pool.submit(until_refused, client) for _ in range(4)]
            wait_for(lambda: hold.runs)
            server.send_signal(signal.SIGTERM)
            # They are told to go elsewhere, at once.
            for other in others:
                assert isinstance(other.result(60), UnavailableError)
            rest = Rest(f"http://127.0.0.1:{found['rest_api_port']}")
            refused = {"signature_name": "echo", "instances": [7]}
            assert rest.error(refused) == (503, "The server is stopping")
            assert not call.done()
            hold.release()
            assert call.result(60)["y"].tolist() == [1.0]
        assert server.wait(60) == 0
        assert not ports.exists()
    finally:
        server.kill()
        server.communicate()


def test_a_server_that_cannot_start_says_so_in_one_line(tmp_path, capsys):
    assert main([f"--model_base_path={tmp_path}", "--port=0"]) == 1
    assert capsys.readouterr().err == (
        f"error: model 'muse': no servable version below {tmp_path} "
        f"(expected {tmp_path}/<number>/saved_model.pb, "
        "as `muse demo` or `muse pipeline run` push it)\n"
    )
