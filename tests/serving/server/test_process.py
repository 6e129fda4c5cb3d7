"""The server as a process: flags in, ports out, a clean end."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from serving.client import MuseClient, Timeouts
from serving.server.main import main

pytestmark = pytest.mark.tf

ROOT = pathlib.Path(__file__).parents[3]


def start(*flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "serving.server", *flags],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )


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
        answers = []
        with MuseClient(
            target, model="toy", timeouts=Timeouts(call=60, total=60)
        ) as client:

            def slow(loops: int) -> float:
                started = time.monotonic()
                answers.append(
                    client.predict("slow", {"n": np.array(loops, np.int64)})
                )
                return time.monotonic() - started

            slow(10)
            loops = int(3.0 / slow(2000) * 2000)
            caller = threading.Thread(target=slow, args=(loops,))
            caller.start()
            time.sleep(0.5)
            server.send_signal(signal.SIGTERM)
            caller.join(60)
            assert len(answers) == 3  # the call in flight was answered
        assert server.wait(60) == 0
        assert not ports.exists()
    finally:
        server.kill()
        server.communicate()


def test_a_server_that_cannot_start_says_so_in_one_line(tmp_path, capsys):
    assert main([f"--model_base_path={tmp_path}", "--port=0"]) == 1
    assert capsys.readouterr().err == (
        f"error: model 'muse': no servable version below {tmp_path} "
        f"(expected {tmp_path}/<number>/saved_model.pb)\n"
    )
