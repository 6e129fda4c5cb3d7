"""Installs the client alone, and ranks with it.

Makes an environment with nothing but `muse-tensorflow[client]`, starts the
embedded server from the project's own environment on a small model, and lets
the installed client ask it by gRPC, by REST and from an event loop:

    .venv/bin/python scripts/check_client.py --python python3.11
"""

from __future__ import annotations

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from fresh_install import ROOT, copied_checkout, environment

EXPORT = """
import pathlib, sys
from tests.serving import toy_muse
toy_muse.export_toy_muse(pathlib.Path(sys.argv[1]))
"""
ASK = """
import asyncio, importlib.util, sys
import serving.client.ranking
from serving.client import AsyncMuseClient, MuseClient, RankRequest

for name in ("tensorflow", "tensorflow_serving", "tfx"):
    assert importlib.util.find_spec(name) is None, f"{name} is installed"
assert "site-packages" in serving.client.__file__, serving.client.__file__
grpc, rest = sys.argv[1:]
request = RankRequest(7, [1, 2, 3, 4, 5], [11, 12], {"profile_1": 5})

async def by_event_loop():
    async with AsyncMuseClient(grpc) as client:
        return await client.rank(request)

answers = [asyncio.run(by_event_loop())]
for address, kind in ((grpc, "grpc"), (rest, "rest")):
    with MuseClient(address, kind) as client:
        answers.append(client.rank(request))
        assert client.status()[0].state == "AVAILABLE"
scores = [answer.click_probability for answer in answers]
assert all(abs(other - scores[0]).max() < 1e-6 for other in scores), scores
"""


def main() -> None:
    """Parses the arguments, and checks."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--python", default=sys.executable, help="interpreter to install for"
    )
    interpreter = parser.parse_args().python
    with tempfile.TemporaryDirectory() as folder:
        client = install(interpreter, pathlib.Path(folder))
        ask(client, pathlib.Path(folder))


def install(interpreter: str, folder: pathlib.Path) -> pathlib.Path:
    """Installs the client; returns the interpreter that has it."""
    source = copied_checkout(folder)
    python = environment(interpreter, folder, f"{source}[client]")
    shutil.rmtree(source)
    return python


def ask(client: pathlib.Path, folder: pathlib.Path) -> None:
    """Starts a server, and asks it with the installed client."""
    base, ports = folder / "muse", folder / "ports.json"
    base.mkdir()
    subprocess.run([sys.executable, "-c", EXPORT, base], cwd=ROOT, check=True)
    flags = [f"--model_base_path={base}", f"--port_file={ports}"]
    server = subprocess.Popen(
        [sys.executable, "-m", "serving.model_server", *flags]
        + ["--port=0", "--rest_api_port=0"],
        cwd=ROOT,
    )
    try:
        while not ports.exists():
            if server.poll() is not None:
                raise SystemExit("the server did not start")
            time.sleep(0.1)
        found = json.loads(ports.read_text())
        subprocess.run(
            [client, "-c", ASK]
            + [f"127.0.0.1:{found['port']}"]
            + [f"http://127.0.0.1:{found['rest_api_port']}"],
            cwd=folder,
            check=True,
        )
    finally:
        server.terminate()
        server.wait()
    print("The client works without TensorFlow.")


if __name__ == "__main__":
    main()
