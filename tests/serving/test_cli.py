"""`muse serve` and `muse rank`, as a person uses them."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from muse_tools.cli import rank as rank_module
from serving.client import RankRequest
from tests.serving import toy_matching, toy_muse

pytestmark = pytest.mark.tf

ROOT = pathlib.Path(__file__).parents[2]
USERS = {5: [3, 6, 9, 4], -(2**60): [], 8: list(range(1, 30))}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> pathlib.Path:
    """A data set of three users, in two row groups."""
    root = tmp_path_factory.mktemp("data")
    (root / "raw").mkdir()
    columns = {
        "129_1": list(USERS),
        **{f"130_{place}": [place, 0, place] for place in range(1, 6)},
        "150_2_180": list(USERS.values()),
        "151_2_180": [[item % 4 for item in items] for items in USERS.values()],
    }
    pq.write_table(
        pa.table(columns),
        root / "raw" / "test_user_features.parquet",
        row_group_size=2,
    )
    names = {"item_id": [3, 6], "name": ["three", "six"]}
    pq.write_table(pa.table(names), root / "names.parquet")
    return root


@pytest.fixture(scope="module")
def run(muse):
    return caller(muse)


@pytest.fixture(scope="module")
def run_both(muse_and_matching):
    """Runs `muse rank` against a server that has both models."""
    return caller(muse_and_matching)


def caller(server):
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(rank_module.rank)
    runner = CliRunner()

    def call(*arguments: str, transport: str = "grpc"):
        target = server.grpc if transport == "grpc" else server.rest
        return runner.invoke(
            app,
            ["--target", target, "--transport", transport, *arguments],
            env={"COLUMNS": "120"},
        )

    return call


USER = {f"profile_{number}": number for number in range(1, 6)}


def request_of(user: int, candidates: list[int]) -> RankRequest:
    items = USERS[user]
    place = list(USERS).index(user)
    return RankRequest(
        user_id=user,
        candidate_item_ids=candidates,
        behavior_item_ids=items,
        user={} if place == 1 else USER,
        behaviors={"category": [item % 4 for item in items]},
    )


@pytest.mark.parametrize("transport", ["grpc", "rest"])
@pytest.mark.parametrize("user", list(USERS))
def test_rank_by_user(run, data, user, transport):
    done = run(
        *("--user", str(user), "--candidates", "7,3,6"),
        *("--data", str(data), "--json"),
        transport=transport,
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    want = toy_muse.expected_score(request_of(user, [7, 3, 6]))
    scores = {
        row["item_id"]: row["click_probability"] for row in found["candidates"]
    }
    assert scores == pytest.approx(
        dict(zip([7, 3, 6], want.tolist(), strict=True)), rel=1e-5
    )
    listed = [row["click_probability"] for row in found["candidates"]]
    assert listed == sorted(listed, reverse=True)
    names = {row["item_id"]: row.get("name") for row in found["candidates"]}
    assert names == {7: None, 3: "three", 6: "six"}


def test_explain_names_what_was_retrieved(run, data):
    done = run(
        *("--user", "5", "--candidates", "6", "--data", str(data)),
        *("--explain", "--json", "--top", "2"),
    )
    (row,) = json.loads(done.stdout)["candidates"]
    # Behaviors 3, 6, 9 match 6 modulo 3; the newest come first.
    assert [b["item_id"] for b in row["behaviors"]] == [9, 6]
    assert [b["position"] for b in row["behaviors"]] == [2, 1]
    assert [b.get("name") for b in row["behaviors"]] == [None, "six"]
    done = run(
        *("--user", "5", "--candidates", "6", "--data", str(data)),
        "--explain",
    )
    assert done.exit_code == 0
    assert "Retrieved for six" in done.stdout and "three" in done.stdout
    done = run(
        *("--user", str(-(2**60)), "--candidates", "6"),
        *("--data", str(data), "--explain"),
    )
    assert "Nothing was retrieved" in done.stdout


def test_rank_by_request_file(run, tmp_path):
    request = {
        "user_id": 5,
        "user": USER,
        "behavior_item_ids": [3, 3],
        "behaviors": {"category": [1, 1]},
        "candidate_item_ids": [3, 4],
    }
    file = tmp_path / "request.json"
    file.write_text(json.dumps(request))
    done = run("--request", str(file), "--json")
    want = toy_muse.expected_score(RankRequest(**request))
    found = json.loads(done.stdout)["candidates"]
    assert [row["item_id"] for row in found] == [3, 4]
    assert [row["click_probability"] for row in found] == pytest.approx(
        want.tolist(), rel=1e-5
    )
    done = run("--request", str(file), "--candidates", "9", "--json")
    assert json.loads(done.stdout)["candidates"][0]["item_id"] == 9


@pytest.mark.parametrize("transport", ["grpc", "rest"])
@pytest.mark.parametrize("user", list(USERS))
def test_without_candidates_the_matching_model_is_asked(
    run_both, data, user, transport
):
    done = run_both(
        *("--user", str(user), "--data", str(data), "--json"),
        *("--num-candidates", "4"),
        transport=transport,
    )
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["candidates"]
    items, scores = toy_matching.expected(USERS[user])
    assert {r["item_id"]: r["matching_score"] for r in rows} == pytest.approx(
        dict(zip(items[:4], scores[:4], strict=True)), rel=1e-6
    )
    # Ranked by the ranker, not by the matching.
    want = toy_muse.expected_score(request_of(user, items[:4]))
    listed = [row["click_probability"] for row in rows]
    assert listed == pytest.approx(sorted(want.tolist(), reverse=True), 1e-5)


def test_candidates_of_a_request_file_may_be_left_out(run_both, tmp_path):
    file = tmp_path / "request.json"
    fields = {
        "user_id": 5,
        "user": USER,
        "behavior_item_ids": [2, 2],
        "behaviors": {"category": [1, 1]},
    }
    file.write_text(json.dumps(fields))
    done = run_both("--request", str(file), "--num-candidates", "3")
    assert done.exit_code == 0, done.output
    assert "Retrieval score" in done.stdout and "2.020" in done.stdout
    file.write_text(json.dumps({**fields, "candidate_item_ids": [4]}))
    done = run_both("--request", str(file))
    assert done.exit_code == 0 and "Retrieval score" not in done.stdout


def test_without_matching_model_it_says_what_to_do(run, data):
    done = run("--user", "5", "--data", str(data))
    assert done.exit_code == 1
    for part in ("no model 'matching'", "--candidates", "models.config"):
        assert part in done.output
    done = run("--user", "5", "--data", str(data), "--matching-model", "other")
    assert "no model 'other'" in done.output


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["--user", "77", "--candidates", "1", "--data"], 1, "no user 77"),
        (
            ["--user", str(2**70), "--candidates", "1", "--data"],
            2,
            "be a whole number of 64 bits",
        ),
        (["--user", "5", "--candidates", "0", "--data"], 1, "not contain 0"),
        (["--user", "5", "--candidates", "a", "--data"], 2, "ids like 11"),
        (["--candidates", "1", "--data"], 2, "--user is missing: give"),
        (
            ["--user", "5", "--candidates", "1", "--model", "x", "--data"],
            1,
            "NOT_FOUND",
        ),
        (
            ["--user", "5", "--candidates", "1", "--split", "train", "--data"],
            1,
            "train_user_features",
        ),
    ],
)
def test_rank_errors_are_one_line(run, data, arguments, code, part):
    done = run(*arguments, str(data))
    assert done.exit_code == code
    text = done.stderr if hasattr(done, "stderr") else done.output
    assert part in text
    if code == 1:
        assert text.startswith("error: ") and text.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{", "is not JSON"),
        ("[]", "must hold an object"),
        ('{"user_id": 1}', "behavior_item_ids is missing"),
        ('{"user_profile": [1]}', "user_profile is no field of a request"),
    ],
)
def test_broken_request_files(run, tmp_path, text, part):
    file = tmp_path / "request.json"
    file.write_text(text)
    done = run("--request", str(file))
    assert done.exit_code == 1 and part in done.output


def test_no_server_says_how_to_start_one(run, data):
    done = run(
        *("--user", "5", "--candidates", "1", "--data", str(data)),
        *("--target", "127.0.0.1:1"),
    )
    assert done.exit_code == 1 and "muse serve" in done.output


@pytest.mark.once
@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_the_printed_curl_line_works(muse_base, tmp_path):
    ports = tmp_path / "ports.json"
    code = "from muse_tools.cli.serve import serve as f; import typer; "
    code += "app = typer.Typer(); app.command()(f); app()"
    server = subprocess.Popen(
        [
            *(sys.executable, "-W", "ignore", "-c", code),
            f"--model-base-path={muse_base}",
            *("--port=0", "--rest-port=0", f"--port-file={ports}"),
        ],
        cwd=ROOT,
        stdout=(tmp_path / "out").open("w"),
        stderr=(tmp_path / "err").open("w"),
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    try:
        deadline = time.monotonic() + 90
        while "Ctrl-C" not in (text := (tmp_path / "out").read_text()):
            assert server.poll() is None and time.monotonic() < deadline, (
                tmp_path / "err"
            ).read_text()
            time.sleep(0.1)
        (line,) = [x for x in text.splitlines() if x.startswith("  curl ")]
        done = subprocess.run(
            line, shell=True, capture_output=True, text=True, timeout=30
        )
        scores = np.array(json.loads(done.stdout)["outputs"])
        assert scores.ndim == 2
        assert re.search(r"gRPC +127\.0\.0\.1:\d+", text)
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
    finally:
        server.kill()
        server.wait()
