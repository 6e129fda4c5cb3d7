"""The ranking service in a process beside the model server."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serving.server.app import ServerApp

__all__ = ["beside"]

_STOP_S = 20


@contextlib.contextmanager
def beside(
    app: ServerApp,
    folder: str,
    *,
    store: str,
    host: str,
    port: int,
    rest_port: int,
    model: str,
) -> Iterator[None]:
    """Runs the service as long as the context is open.

    A process of its own: it does not share the model server's interpreter
    lock.

    Args:
        app: the model server.
        folder: for its port file.
        store: URL of the behaviour store.
        host: interface to listen on.
        port: gRPC port.
        rest_port: REST port.
        model: ranking model.
    """
    names = app.model_names
    settings = {
        "store": store,
        "targets": [app.grpc_target],
        "model": model if model in names else names[0],
        "matching_model": "matching" if "matching" in names else "",
        "host": host,
        "port": port,
        "rest_port": rest_port,
        "port_file": f"{folder}/ranking.json",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "serving.service", json.dumps(settings)],
        stdin=subprocess.DEVNULL,
    )
    sys.stdout.write(f"Ranking service on {host}, gRPC {port}, "
                     f"REST {rest_port}\n")  # fmt: skip
    sys.stdout.flush()
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
