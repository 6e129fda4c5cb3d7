"""A real S3 server on this machine: moto, in an environment of its own."""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator

from serving.files import locked, replaced_folder
from tests.serving.stores.conftest import free_ports, wait_until

ROOT = pathlib.Path(__file__).parents[2]
LOCK = ROOT / "requirements" / "s3-server.lock"


def s3_program() -> pathlib.Path:
    """The server, which is installed from the lock file once."""
    base = ROOT / ".cache" / "s3-server"
    with locked(base.with_name("s3-server.lock")):
        known = base / "s3-server.lock"
        if not known.exists() or known.read_bytes() != LOCK.read_bytes():
            with replaced_folder(base) as folder:
                made = folder / "venv"
                for command in (
                    [sys.executable, "-m", "venv", made],
                    [
                        *(made / "bin" / "python", "-m", "pip", "install"),
                        *("--quiet", "--no-compile", "--require-hashes"),
                        *("--requirement", LOCK),
                    ],
                ):
                    subprocess.run(command, check=True)
                (folder / known.name).write_bytes(LOCK.read_bytes())
    return base / "venv" / "bin" / "python"


@contextlib.contextmanager
def s3_server(folder: pathlib.Path) -> Iterator[dict[str, str]]:
    """Runs the server with a bucket `muse-test`; yields the environment."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    with (folder / "s3.log").open("wb") as log:
        server = subprocess.Popen(
            [s3_program(), "-m", "moto.server", "-p", str(port)],
            stdout=log,
            stderr=log,
        )

    def made() -> bool:
        assert server.poll() is None, (folder / "s3.log").read_text()
        request = urllib.request.Request(f"{url}/muse-test", method="PUT")
        try:
            with urllib.request.urlopen(request):
                return True
        except urllib.error.URLError:
            return False

    try:
        wait_until(made)
        yield {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    finally:
        server.kill()
        server.wait()
