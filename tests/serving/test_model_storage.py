"""Versions in object storage: a server that looks sees whole ones only."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from muse_tools.cli.commands import app
from serving import model_storage
from serving.files import find_versions
from tests import s3_server

pytestmark = pytest.mark.once

SIZES = {"saved_model.pb": 30, "variables/a.data": 9_000_000, "assets/b.txt": 0}


def model(folder: pathlib.Path, number: int) -> pathlib.Path:
    for name, size in SIZES.items():
        path = folder / str(number) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number]) * size)
    return folder / str(number)


def check(version: pathlib.Path, number: int) -> None:
    found = {
        path.relative_to(version).as_posix(): path.read_bytes()
        for path in version.rglob("*")
        if path.is_file()
    }
    assert found == {n: bytes([number]) * size for n, size in SIZES.items()}


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    with s3_server.served(tmp_path_factory.mktemp("s3")) as system:
        system.create_dir("muse-test")
        yield "muse-test"


@pytest.fixture(params=["file", "s3"])
def url(request, tmp_path) -> str:
    """A URL without a version."""
    if request.param == "file":
        return f"file://{tmp_path}/stored/muse"
    bucket = request.getfixturevalue("bucket")
    return f"s3://{bucket}/{tmp_path.name}/muse"


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["models", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.output


def test_pushed_pulled_replaced_and_withdrawn(url, tmp_path) -> None:
    above, served = url.rpartition("/")[0], tmp_path / "served"
    pull = ("pull", above, served, "--model", "muse", "--file", "fresh.parquet")
    assert run(*pull) == ""
    for number in (7, 8, 10):
        run("push", model(tmp_path, number), url)
        assert "version" in run(*pull)
        check(served / "muse" / str(number), number)
    assert run(*pull) == ""
    # The one before stays, for servers that still read it.
    assert set(find_versions(served / "muse")) == {8, 10}
    system, base = model_storage.open_storage(url)
    system.delete_file(f"{base}/10.json")
    run(*pull)
    assert set(find_versions(served / "muse")) == {8}
    check(served / "muse" / "8", 8)
    # Without any version, what is served stays.
    for number in (7, 8):
        system.delete_file(f"{base}/{number}.json")
    run(*pull)
    assert set(find_versions(served / "muse")) == {8}
    for content in (b"one", b"two!"):
        with system.open_output_stream(
            base.rpartition("/")[0] + "/fresh.parquet"
        ) as output:
            output.write(content)
        assert "fresh.parquet: copied" in run(*pull)
        assert (served / "fresh.parquet").read_bytes() == content
        assert run(*pull) == ""


def test_incomplete_and_damaged_versions_are_not_served(url, tmp_path) -> None:
    served = tmp_path / "served"
    model_storage.store_version(model(tmp_path, 7), url, 7)
    assert model_storage.fetch_newest(url, served) == 7
    model_storage.store_version(model(tmp_path, 8), url, 8)
    system, base = model_storage.open_storage(url)
    with system.open_input_stream(f"{base}/8.json") as stream:
        listed = stream.read()
    # Without its list, it is still being written.
    system.delete_file(f"{base}/8.json")
    assert model_storage.fetch_newest(url, served) is None
    with system.open_output_stream(f"{base}/8.json") as output:
        output.write(listed)
    with system.open_output_stream(f"{base}/8/variables/a.data") as output:
        output.write(b"damaged")
    with pytest.raises(OSError, match="expected size and CRC-32"):
        model_storage.fetch_newest(url, served)
    assert set(find_versions(served)) == {7}
    check(served / "7", 7)
    # Once it is right, only what was wrong is copied again.
    kept = (served / ".8.tmp" / "saved_model.pb").stat().st_mtime_ns
    with system.open_output_stream(f"{base}/8/variables/a.data") as output:
        output.write(bytes([8]) * SIZES["variables/a.data"])
    assert model_storage.fetch_newest(url, served) == 8
    check(served / "8", 8)
    assert (served / "8" / "saved_model.pb").stat().st_mtime_ns == kept
    with pytest.raises(ValueError, match="one that is not in"):
        model_storage.store_version(model(tmp_path, 8), url, 8)
    outside = json.loads(listed)
    outside["files"]["../x"] = [1, 1]
    with system.open_output_stream(f"{base}/9.json") as output:
        output.write(json.dumps(outside).encode())
    with pytest.raises(OSError, match="leaves the folder"):
        model_storage.fetch_newest(url, served)


def test_watching_survives_errors_of_the_storage(tmp_path) -> None:
    stored, served = tmp_path / "stored", tmp_path / "served"
    (stored / "muse").mkdir(parents=True)
    (stored / "muse" / "5.json").write_text("not a list")
    watch = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "from muse_tools.cli.main import run; run()",
            *("models", "pull"),
            *(f"file://{stored}", str(served), "--model", "muse"),
            *("--watch", "--poll", "0.05"),
        ],
        stderr=subprocess.PIPE,
        text=True,
        cwd=pathlib.Path(__file__).parents[2],
    )
    try:
        assert watch.stderr is not None
        assert watch.stderr.readline().startswith("error: ")
        url = f"file://{stored}/muse"
        model_storage.store_version(model(tmp_path, 6), url, 6)
        until = time.monotonic() + 60
        while not find_versions(served / "muse"):
            assert time.monotonic() < until and watch.poll() is None
            time.sleep(0.05)
        check(served / "muse" / "6", 6)
    finally:
        watch.kill()
        watch.wait()
