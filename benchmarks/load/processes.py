"""The servers under load, each a process of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

START_S = 300
STOP_S = 30


@dataclasses.dataclass(frozen=True)
class Server:
    """A server that runs.

    Attributes:
        name: of the process.
        process: the process.
        grpc: `host:port` of gRPC, empty where there is none.
        rest: `host:port` of REST, empty where there is none.
        log: what it wrote.
    """

    name: str
    process: subprocess.Popen[bytes]
    grpc: str
    rest: str
    log: pathlib.Path


@contextlib.contextmanager
def model_server(
    folder: pathlib.Path,
    models: Mapping[str, pathlib.Path],
    *flags: str,
    name: str = "server",
) -> Iterator[Server]:
    """Run the embedded server.

    Args:
        folder: for its files.
        models: base path, with a folder per version, by name.
        flags: further flags.
        name: of the process.
    """
    config = folder / f"{name}.config"
    entries = (
        f'config {{ name: "{model}" base_path: "{path}" '
        'model_platform: "tensorflow" }'
        for model, path in models.items()
    )
    config.write_text(f"model_config_list {{ {' '.join(entries)} }}")
    ports = folder / f"{name}-ports.json"
    argv = (
        *(sys.executable, "-m", "serving.model_server"),
        *("--port=0", "--rest_api_port=0"),
        f"--model_config_file={config}",
        f"--port_file={ports}",
        *flags,
    )
    with _run(name, argv, folder, ports) as server:
        yield server


@contextlib.contextmanager
def ranking_service(
    folder: pathlib.Path, name: str = "service", **settings: Any
) -> Iterator[Server]:
    """Run the ranking service.

    Args:
        folder: for its files.
        name: of the process.
        settings: fields of `ServiceConfig`; ports are chosen here.
    """
    ports = folder / f"{name}-ports.json"
    settings |= {"port": 0, "rest_port": 0, "port_file": str(ports)}
    argv = (
        *(sys.executable, "-m", "serving.ranking_service"),
        json.dumps(settings),
    )
    with _run(name, argv, folder, ports) as server:
        yield server


@contextlib.contextmanager
def redis_server(folder: pathlib.Path) -> Iterator[Server | None]:
    """Run a redis-server on the socket `folder / "redis.sock"`.

    Yields:
        None where redis-server is not installed.
    """
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        yield None
        return
    socket = folder / "redis.sock"
    argv = (
        *(program, "--port", "0", "--unixsocket", str(socket)),
        *("--save", "", "--appendonly", "no", "--dir", str(folder)),
    )
    with _run("store", argv, folder, socket) as server:
        yield server


@contextlib.contextmanager
def _run(
    name: str,
    argv: Sequence[str],
    folder: pathlib.Path,
    ready: pathlib.Path,
) -> Iterator[Server]:
    """Run a process; `ready` is the file that it makes when it can serve."""
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ},
        )
    try:
        ends = time.monotonic() + START_S
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > ends:
                raise RuntimeError(
                    f"{name} did not start: "
                    f"{log.read_text(errors='replace')[-2000:]}"
                )
            time.sleep(0.05)
        found = json.loads(ready.read_text()) if ready.suffix == ".json" else {}
        rest = found.get("rest_port", found.get("rest_api_port"))
        yield Server(
            name=name,
            process=process,
            grpc=f"127.0.0.1:{found['port']}" if found else "",
            rest=f"127.0.0.1:{rest}" if found else "",
            log=log,
        )
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
