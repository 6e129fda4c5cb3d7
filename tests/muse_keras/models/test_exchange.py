"""A ranker saved on one backend loads on every other."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent
PROGRAM = HERE / "exchange_rankers.py"
pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax",
    reason="runs beside the tests on JAX, and starts the other backends",
)


def with_tensorflow():
    """The interpreter of the other environment, or None."""
    folder = ROOT / os.environ.get("VENV", ".venv")
    found = folder.glob("lib/python3*/site-packages/tensorflow/__init__.py")
    return folder / "bin/python" if any(found) else None


def start(backend, python, folder, *tasks):
    """A process whose errors come to a file: a full pipe would stop it."""
    search = os.pathsep.join(map(str, (ROOT, HERE.parent / "support")))
    with (folder / f"{backend}.txt").open("w", encoding="utf-8") as errors:
        return subprocess.Popen(
            [str(python), str(PROGRAM), str(folder), *tasks],
            env={
                **os.environ,
                "KERAS_BACKEND": backend,
                "PYTHONPATH": search,
                "CUDA_VISIBLE_DEVICES": "",
            },
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )


def test_every_backend_reads_the_files_of_every_other(tmp_path, monkeypatch):
    tensorflow = with_tensorflow()
    if tensorflow is None:
        pytest.skip("no environment with TensorFlow beside this one")
    if importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed")
    monkeypatch.syspath_prepend(HERE)
    import exchange_rankers

    tasks = {
        "torch": (sys.executable, tmp_path, "write", "jax", "tensorflow"),
        "tensorflow": (tensorflow, tmp_path, "write", "jax", "torch"),
    }
    others = {backend: start(backend, *tasks[backend]) for backend in tasks}
    try:
        exchange_rankers.write(tmp_path)
        for backend, process in others.items():
            code = process.wait(timeout=280)
            said = (tmp_path / f"{backend}.txt").read_text(encoding="utf-8")
            assert code == 0, said[-4000:]
    finally:
        for process in others.values():
            process.kill()
            process.wait()
    for backend in others:
        exchange_rankers.read(tmp_path, backend)
