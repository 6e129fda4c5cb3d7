"""Processes that train together, described by ``TF_CONFIG``."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any, TextIO

from serving.files import write_json
from tfx_pipeline import progress

PROGRESS = "muse: "
"""Begins the lines of a worker's output that report progress."""

TF_CONFIG = "TF_CONFIG"
_JOB_FILE = "ranker_job.json"
_WORKER = "tfx_pipeline.components.ranker_worker"
_ROLES = ("chief", "worker")
_FORMAT = '{"cluster": {"worker": ["host:port", …]}, "task": {…}}'


class WorkerLost(RuntimeError):
    """A worker ended before the training did."""


def cluster(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """Returns ``TF_CONFIG`` if it has several workers, otherwise None.

    Kubeflow's TFJob and Vertex AI set it in every pod: ``cluster`` has the
    addresses of each role, ``task`` the role and the index of this process.

    Raises:
        ValueError: it is malformed, or has roles other than chief and worker.
    """
    text = environment.get(TF_CONFIG, "")
    if not text:
        return None
    try:
        config = json.loads(text)
        tasks = {role: len(hosts) for role, hosts in config["cluster"].items()}
        task = config["task"]
        role, index = task["type"], int(task["index"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{TF_CONFIG}: expected {_FORMAT}. Received: {text[:200]}"
        ) from error
    unknown = sorted({*tasks, role} - set(_ROLES))
    if unknown:
        raise ValueError(
            f"{TF_CONFIG}: expected the roles {' and '.join(_ROLES)}; remove "
            f"the others from the job. Received: {', '.join(unknown)}"
        )
    if not 0 <= index < tasks.get(role, 0):
        raise ValueError(
            f"{TF_CONFIG}: expected a task of the cluster, {tasks}. "
            f"Received: {role} {index}"
        )
    if sum(tasks.values()) == 1:
        return None
    return {"cluster": config["cluster"], "task": task}


def is_chief(config: Mapping[str, Any]) -> bool:
    """Returns whether this process is the chief, or worker 0 without one."""
    task = config["task"]
    chief = "chief" if config["cluster"].get("chief") else "worker"
    return (task["type"], int(task["index"])) == (chief, 0)


def count(config: Mapping[str, Any]) -> int:
    """Returns the number of workers of a cluster, the chief included."""
    return sum(map(len, config["cluster"].values()))


def local_clusters(workers: int) -> list[dict[str, Any]]:
    """Returns ``TF_CONFIG`` for each of several workers on this machine."""
    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(workers):
            taken = stack.enter_context(socket.socket())
            taken.bind(("127.0.0.1", 0))
            ports.append(taken.getsockname()[1])
    hosts = [f"127.0.0.1:{port}" for port in ports]
    return [
        {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": i}}
        for i in range(workers)
    ]


def run(
    configs: list[dict[str, Any]], module: str, arguments: list[str]
) -> None:
    """Runs ``python -m module arguments`` once for each ``TF_CONFIG``.

    Returns when all have ended. If one fails, the others are stopped: their
    next step would wait for it. Their standard input stays open as long as
    this process lives, so that they can end with it.

    Raises:
        WorkerLost: a process failed.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as end:
        started = []
        for number, config in enumerate(configs):
            path = pathlib.Path(folder) / f"{number}.log"
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env={**os.environ, TF_CONFIG: json.dumps(config)},
                stdin=subprocess.PIPE,
                stdout=end.enter_context(path.open("wb")),
                stderr=subprocess.STDOUT,
            )
            end.callback(_stop, process)
            output = path.open(encoding="utf-8", errors="replace")
            log = _Log(end.enter_context(output))
            started.append((config["task"], process, log))
        while True:
            codes = [process.poll() for _, process, _ in started]
            for _, _, log in started:
                log.follow()
            if any(codes):
                # A killed process comes first: others fail because of it.
                code = min(code for code in codes if code)
                task, process, log = started[codes.index(code)]
                raise WorkerLost(
                    f"{task['type']} {task['index']} ended with "
                    f"{process.returncode}: {log.last()}; the same command "
                    "resumes at the last checkpoint."
                )
            if None not in codes:
                return
            time.sleep(0.2)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def train(root: pathlib.Path, job: Any, configs: list[dict[str, Any]]) -> None:
    """Trains a ranker in a process for each ``TF_CONFIG``.

    ``job`` goes to a file in ``root``, for which workers on other machines
    wait.

    Raises:
        WorkerLost: a process failed.
    """
    root.mkdir(parents=True, exist_ok=True)
    path = root / _JOB_FILE
    write_json(path, job)
    try:
        run(configs, _WORKER, [str(path)])
    finally:
        path.unlink()


def follow(root: pathlib.Path, config: dict[str, Any]) -> None:
    """Trains as a worker that is not the chief, when the chief starts to.

    Raises:
        WorkerLost: the training failed.
    """
    path = root / _JOB_FILE
    while not path.exists():
        time.sleep(1)
    run([config], _WORKER, [str(path)])


class _Log:
    """The output of a worker; its lines of progress are reported."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._last = "no output"

    def follow(self) -> None:
        """Reports new lines of progress."""
        for line in self._file:
            text = line.strip()
            if text.startswith(PROGRESS):
                progress.report(text.removeprefix(PROGRESS))
            elif text:
                self._last = text

    def last(self) -> str:
        """Returns the last line that is not of progress."""
        return self._last
