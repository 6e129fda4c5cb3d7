"""Runs the embedded server in a process of its own, for as long as needed."""

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
from collections.abc import Iterator, Sequence

__all__ = ["ServerAddress", "ServerDidNotStart", "local_server"]

_STOP_S = 30


class ServerDidNotStart(RuntimeError):
    """The model server ended or was not ready in time."""


@dataclasses.dataclass(frozen=True)
class ServerAddress:
    """Where a server listens.

    Attributes:
        grpc: ``host:port``.
        rest: ``host:port``.
    """

    grpc: str
    rest: str


@contextlib.contextmanager
def local_server(
    saved_model: str | os.PathLike[str],
    *,
    model_name: str = "muse",
    timeout_s: float = 300,
    flags: Sequence[str] = (),
) -> Iterator[ServerAddress]:
    """Serves one SavedModel on free loopback ports.

    Args:
        saved_model: version folder.
        model_name: its name in requests.
        timeout_s: seconds until it must be ready.
        flags: further flags of `python -m serving.server`.

    Yields:
        The addresses.

    Raises:
        ServerDidNotStart: with the end of the server's own output.
    """
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(
            stack.enter_context(tempfile.TemporaryDirectory())
        )
        base = folder / model_name
        base.mkdir()
        (base / "1").symlink_to(
            pathlib.Path(saved_model).absolute(), target_is_directory=True
        )
        ports, output = folder / "ports.json", folder / "server.log"
        server = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "serving.server",
                f"--model_name={model_name}",
                f"--model_base_path={base}",
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


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
