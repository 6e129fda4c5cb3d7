"""The walk-through of docs/own-data.md: its files, commands and answers."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys

import pytest

from schemas import ranking_schema
from tests.docs.test_docs import BLOCK, ROOT

PAGE = (ROOT / "docs" / "own-data.md").read_text(encoding="utf-8")
END = PAGE.index("## Add a feature")
WALK = [(found[1], found[2]) for found in BLOCK.finditer(PAGE[:END])]
# YAML of the page that is a file, by the name before it.
FILES = ["movies/schema.yaml", "movies.yaml"]


def declarations():
    found = [
        code for language, code in BLOCK.findall(PAGE) if language == "yaml"
    ]
    return [code for code in found if re.search("^name:", code, re.M)]


@pytest.mark.parametrize("text", declarations(), ids=lambda t: t.split()[1])
def test_declarations_of_the_page_are_valid(tmp_path, text):
    file = tmp_path / "schema.yaml"
    file.write_text(text, encoding="utf-8")
    assert ranking_schema.load(file).name in text


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Shell:
    """Runs blocks of the page, on ports of its own."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.grpc, self.rest, self.ranking, self.ranking_rest = _free_ports(4)
        binaries = pathlib.Path(sys.executable).parent
        self.env = {
            **os.environ,
            "PATH": f"{binaries}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "TF_CPP_MIN_LOG_LEVEL": "2",
        }
        self.server: subprocess.Popen | None = None

    def run(self, code: str) -> str:
        done = subprocess.run(
            ["bash", "-euc", code.replace(":8601/", f":{self.ranking_rest}/")],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def serve(self, code: str) -> None:
        """Starts what serves until Ctrl-C, and waits until it does."""
        ports = (
            f" --port {self.grpc} --rest-port {self.rest} --ranking-port "
            f"{self.ranking} --ranking-rest-port {self.ranking_rest}"
        )
        self.server = subprocess.Popen(
            ["bash", "-c", f"exec {code.strip()}{ports}"],
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        seen = []
        for line in self.server.stdout:
            seen.append(line)
            if f":{self.ranking_rest}" in line:
                return
        pytest.fail("".join(seen))

    def stop(self) -> None:
        if self.server:
            self.server.send_signal(signal.SIGINT)
            self.server.communicate(timeout=60)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Runs the page; returns what each of its commands printed."""
    folder = tmp_path_factory.mktemp("page")
    shell, files, printed = Shell(folder), iter(FILES), {}
    try:
        for language, code in WALK:
            if language == "python":
                shell.run(f"python - <<'END'\n{code}END\n")
            elif language == "yaml":
                (folder / next(files)).write_text(code, encoding="utf-8")
            elif code.startswith("muse serve"):
                shell.serve(code)
            else:
                for line in code.strip().splitlines():
                    printed[line] = shell.run(line)
        yield folder, printed
    finally:
        shell.stop()


def _printed(printed, *words):
    (found,) = (
        out for line, out in printed.items() if all(w in line for w in words)
    )
    return found


@pytest.mark.e2e
@pytest.mark.tf
@pytest.mark.timeout(1800)
def test_the_page_leads_from_two_files_to_answers(outputs):
    folder, printed = outputs
    first = _printed(printed, "data init")
    for word in ("userId", "movieId", "rating", "genres"):
        assert word in first
    assert "The tables join." in _printed(printed, "data inspect")
    assert "pushed to" in _printed(printed, "pipeline run")
    ranked = json.loads(_printed(printed, "curl", "candidate_item_ids"))
    assert sorted(ranked["candidate_item_ids"]) == [11, 12, 13]
    scores = ranked["click_probability"]
    assert scores == sorted(scores, reverse=True)
    assert (
        ranked["path"] in ("cached", "full") and ranked["history_length"] > 20
    )
    found = json.loads(_printed(printed, "curl", "top"))
    assert len(found["candidate_item_ids"]) == 10
    assert found["candidates_from"] == "matching"
