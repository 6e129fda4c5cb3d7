"""A real S3 server over HTTP: moto, in an environment of its own."""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest
from pyarrow import fs

from tests.docs.test_docs import ROOT


@contextlib.contextmanager
def served(folder: pathlib.Path) -> Iterator[fs.S3FileSystem]:
    """Starts a server and names it in the environment, as a user would."""
    made = subprocess.run(
        [ROOT / "scripts" / "s3-server"], capture_output=True, text=True
    )
    if made.returncode:
        reason = f"scripts/s3-server: {made.stderr.strip()}"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    python = made.stdout.strip()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (folder / "s3.log").open("w") as log:
        server = subprocess.Popen(
            [python, "-m", "moto.server", "-p", str(port)],
            stdout=log,
            stderr=log,
        )
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
                "AWS_ACCESS_KEY_ID": "key",
                "AWS_SECRET_ACCESS_KEY": "secret",
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
            }.items():
                patch.setenv(name, value)
            _wait(server, port, folder / "s3.log")
            yield fs.S3FileSystem(
                endpoint_override=f"127.0.0.1:{port}",
                scheme="http",
                allow_bucket_creation=True,
            )
    finally:
        server.kill()
        server.wait()


def _wait(server: subprocess.Popen, port: int, log: pathlib.Path) -> None:
    while server.poll() is None:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port), 1),
        ):
            return
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def packages() -> str:
    """Returns the folder of packages with boto3, for the end of a path."""
    (found,) = (ROOT / ".cache" / "s3-server" / "lib").glob(
        "python*/site-packages"
    )
    return str(found)


def upload(system: fs.FileSystem, folder: pathlib.Path, place: str) -> None:
    """Copies a folder into a bucket, which is made."""
    system.create_dir(place.partition("/")[0])
    fs.copy_files(
        str(folder),
        place,
        source_filesystem=fs.LocalFileSystem(),
        destination_filesystem=system,
        use_threads=False,  # Uploads need the same threads: a deadlock.
    )


def download(system: fs.FileSystem, place: str, folder: pathlib.Path) -> None:
    """Copies a folder of a bucket to this machine."""
    folder.mkdir(parents=True)
    fs.copy_files(
        place,
        str(folder),
        source_filesystem=system,
        destination_filesystem=fs.LocalFileSystem(),
        use_threads=False,
    )
