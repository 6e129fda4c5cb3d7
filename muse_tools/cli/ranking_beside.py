"""Runs the ranking service in a process beside the model server."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from muse_tools.cli import output
from serving.addresses import join_address

if TYPE_CHECKING:
    from serving.client import Tls
    from serving.model_server.app import ServerApp

_STOP_S = 20.0


class RankingBeside:
    """The ranking service of one model server, started by the constructor.

    It runs in a process of its own, so that it does not share the model
    server's interpreter lock. If it ends by itself, it also ends this process
    with SIGTERM, so that a supervisor restarts both. If this process is
    killed, the service reaches the end of its input and stops.

    Attributes:
        failed: whether the service ended by itself.
    """

    def __init__(
        self,
        app: ServerApp,
        folder: str,
        model: str,
        target_tls: Tls | None,
        **settings: Any,
    ) -> None:
        """Starts the process; `settings` are fields of `ServiceConfig`."""
        paths = app.base_paths
        model = model if model in paths else next(iter(paths))
        self._host = settings["host"]
        self._scheme = "https" if settings["ssl_config_file"] else "http"
        self._ports = pathlib.Path(folder) / "ranking.json"
        settings |= {
            "targets": [app.grpc_target],
            "calls_per_target": app.config.grpc_max_threads - 1,
            "model": model,
            "model_base_path": paths[model],
            "matching_model": "matching" if "matching" in paths else "",
            "target_tls": target_tls and dataclasses.asdict(target_tls),
            "port_file": str(self._ports),
        }
        self.failed = False
        self._stopping = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, json.dumps(settings)],
            stdin=subprocess.PIPE,
        )
        threading.Thread(target=self._watch, daemon=True).start()

    async def drain(self) -> None:
        """Lets the service answer its requests and stops it.

        The model server must still be running.
        """
        await asyncio.to_thread(self.stop)

    def stop(self) -> None:
        """Stops the process; kills it if that takes too long."""
        self._stopping = True
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _watch(self) -> None:
        while self._process.poll() is None and not self._ports.exists():
            time.sleep(0.1)
        if self._ports.exists():
            found = json.loads(self._ports.read_text(encoding="utf-8"))
            port, rest_port = found["port"], found["rest_port"]
            grpc = rest = None
            if port is not None:
                grpc = join_address(self._host, port)
            if rest_port is not None:
                where = join_address(self._host, rest_port)
                rest = f"{self._scheme}://{where}"
            output.write_lines(output.ranking_lines(grpc, rest))
        self._process.wait()
        if not self._stopping:
            self.failed = True
            os.kill(os.getpid(), signal.SIGTERM)


def _stop_with_parent() -> None:
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> int:
    """Runs the service until a signal or the end of its input."""
    from serving.ranking_service import ServiceConfig, run_until_signal
    from serving.ranking_service.records import log_to_stderr
    from serving.startup import StartupError

    threading.Thread(target=_stop_with_parent, daemon=True).start()
    log_to_stderr()
    try:
        run_until_signal(ServiceConfig.model_validate_json(sys.argv[1]))
    except (OSError, StartupError) as error:
        sys.stderr.write(f"error: the ranking service: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
