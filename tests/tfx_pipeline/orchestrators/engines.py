"""The environment of the orchestrators, which this project makes itself."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
HERE = pathlib.Path(__file__).parent
FOLDER = ROOT / ".cache" / "engines"


def make() -> None:
    """Makes the environment; ends the test if there is no network."""
    done = subprocess.run(
        [ROOT / "scripts" / "bootstrap", "--engines"],
        env={**os.environ, "VENV": str(FOLDER)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip()
        (pytest.fail if os.environ.get("CI") else pytest.skip)(said)


def environment(**more: str) -> dict[str, str]:
    """Variables for a program of the environment: none of this project's."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AIRFLOW", "KERAS", "PYTHONPATH", "TF_"))
    }
    return kept | more


# Airflow's operator reads one when it makes a pod, and connects to nothing.
KUBECONFIG = {
    "current-context": "none",
    "contexts": [
        {"name": "none", "context": {"cluster": "none", "user": "none"}}
    ],
    "clusters": [
        {"name": "none", "cluster": {"server": "https://127.0.0.1:1"}}
    ],
    "users": [{"name": "none", "user": {}}],
}


def read(program: str, path: pathlib.Path, home: pathlib.Path) -> dict:
    """Returns what a program of this folder prints about a file, as JSON."""
    (home / "kubeconfig").write_text(json.dumps(KUBECONFIG))
    done = subprocess.run(
        [FOLDER / "bin" / "python", HERE / program, path],
        env=environment(
            AIRFLOW_HOME=str(home),
            AIRFLOW__CORE__LOAD_EXAMPLES="False",
            KUBECONFIG=str(home / "kubeconfig"),
        ),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
