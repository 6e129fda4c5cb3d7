"""Runs the embedded model server in a separate process."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence

_STOP_S = 30


class ServerDidNotStart(RuntimeError):
    """The model server ended, or was not ready in time."""


@dataclasses.dataclass(frozen=True)
class ServerAddress:
    """Addresses of a server, each ``host:port``."""

    grpc: str
    rest: str


@contextlib.contextmanager
def local_server(
    saved_model: str | os.PathLike[str] | Mapping[str, pathlib.Path],
    *,
    model_name: str = "muse",
    timeout_s: float = 300,
    flags: Sequence[str] = (),
) -> Iterator[ServerAddress]:
    """Serves a version folder, or several by name, on free loopback ports.

    `flags` are additional flags of `python -m serving.model_server`. If the
    server is not ready in time, `ServerDidNotStart` has the end of its output.
    """
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(
            stack.enter_context(tempfile.TemporaryDirectory())
        )
        if not isinstance(saved_model, Mapping):
            saved_model = {model_name: pathlib.Path(saved_model)}
        config = folder / "models.config"
        config.write_text(_models_config(folder, saved_model), encoding="utf-8")
        ports, output = folder / "ports.json", folder / "server.log"
        server = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "serving.model_server",
                f"--model_config_file={config}",
                "--port=0",
                "--rest_api_port=0",
                f"--port_file={ports}",
                *flags,
            ],
            stdout=stack.enter_context(output.open("wb")),
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ},
        )
        stack.callback(_stop, server)
        deadline = time.monotonic() + timeout_s
        while not ports.exists():
            if server.poll() is not None or time.monotonic() > deadline:
                lines = output.read_text(errors="replace").splitlines()
                raise ServerDidNotStart(
                    f"the model server did not start: {' | '.join(lines[-3:])}"
                )
            time.sleep(0.1)
        found = json.loads(ports.read_text(encoding="utf-8"))
        yield ServerAddress(
            grpc=f"127.0.0.1:{found['port']}",
            rest=f"127.0.0.1:{found['rest_api_port']}",
        )


def _models_config(
    folder: pathlib.Path, models: Mapping[str, pathlib.Path]
) -> str:
    """Creates a base folder for each model, and their configuration."""
    entries = []
    for name, version in models.items():
        base = folder / "models" / name
        base.mkdir(parents=True)
        (base / "1").symlink_to(version.absolute(), target_is_directory=True)
        entries.append(
            f"config {{ name: {json.dumps(name)} "
            f"base_path: {json.dumps(str(base))} }}"
        )
    return f"model_config_list {{ {' '.join(entries)} }}"


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
