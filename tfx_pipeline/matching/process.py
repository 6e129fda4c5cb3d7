"""Runs a retrieval job in a process of its own.

TensorFlow Recommenders needs Keras 2, and a process cannot change the version
of Keras that TensorFlow uses.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable

from tfx_pipeline.matching.settings import Job

_PROJECT = pathlib.Path(__file__).resolve().parents[2]
_SHOWN_LINES = 3
_STOP_S = 10


class MatchingFailed(RuntimeError):
    """The process that makes the retrieval model failed."""


def run_job(job: Job, report: Callable[[str], None]) -> None:
    """Runs a job, waits for it and reports each line of its output.

    Raises:
        MatchingFailed: the process failed; has the end of its error output.
    """
    with tempfile.TemporaryDirectory(prefix="muse-matching-") as folder:
        file = pathlib.Path(folder) / "job.json"
        errors = pathlib.Path(folder) / "errors.log"
        job.write(file)
        with errors.open("wb") as stderr:
            child = subprocess.Popen(
                [sys.executable, "-m", "tfx_pipeline.matching.job", str(file)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                encoding="utf-8",
                env=_environment(),
            )
        try:
            for line in child.stdout or ():
                report(line.rstrip("\n"))
            code = child.wait()
        finally:
            _stop(child)
        if code:
            said = errors.read_text(encoding="utf-8", errors="replace")
            last = [line for line in said.splitlines() if line.strip()]
            raise MatchingFailed(
                f"the matching process ended with {code}: "
                + " | ".join(last[-_SHOWN_LINES:])
            )


def _environment() -> dict[str, str]:
    paths = [str(_PROJECT), os.environ.get("PYTHONPATH", "")]
    return {
        "TF_CPP_MIN_LOG_LEVEL": "2",
        **os.environ,
        "TF_USE_LEGACY_KERAS": "1",
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
    }


def _stop(child: subprocess.Popen[str]) -> None:
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
