"""The Locust file against both servers, in a process of its own.

Locust replaces parts of Python's library, which must not happen here.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

PROJECT = pathlib.Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.once, pytest.mark.tf]

SERVICE = {
    "service rank",
    "service match + rank",
    "service append",
    "/v1/rank",
}
MODEL_SERVER = {"rank", "prefetch", "rank_cached"}


def locust(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "locust", "--headless", "--json"),
            *("-f", "benchmarks/locustfile.py", "--exit-code-on-error", "3"),
            *arguments,
        ],
        cwd=PROJECT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    said = (done.stdout + done.stderr)[-4000:]
    assert done.returncode == code, said
    return done


def requests_by_name(
    done: subprocess.CompletedProcess[str],
) -> dict[str, tuple[int, int]]:
    return {
        entry["name"]: (entry["num_requests"], entry["num_failures"])
        for entry in json.loads(done.stdout)
    }


def test_every_kind_of_user_gets_answers(muse_and_matching, tmp_path):
    from serving.ranking_service import ServiceConfig, running_service
    from serving.stores import UserRecord, open_store
    from tests.serving.toy_store import LAYOUT

    store = f"lmdb:{tmp_path / 'store'}"
    with open_store(store, LAYOUT) as opened:
        opened.replace_many(
            [UserRecord(user, {}, np.arange(1, 10)) for user in range(1, 6)]
        )
    config = ServiceConfig(
        store=store,
        targets=(muse_and_matching.grpc,),
        port=0,
        rest_port=0,
        log_requests=False,
    )
    with running_service(config) as app:
        done = locust(
            *("-u", "4", "-r", "4", "-t", "10s", "--think", "0.02"),
            *("--service", app.grpc_target, "--service-rest", app.rest_url),
            *("--model-server", muse_and_matching.grpc),
            *("--items", "19", "--user-ids", "5", "--candidates", "4"),
            *("--history", "20", "--categories", "40"),
            *("--deadline-ms", "5000"),
        )
    found = requests_by_name(done)
    assert set(found) == SERVICE | MODEL_SERVER
    assert all(asked > 0 and not failed for asked, failed in found.values())


def test_errors_of_the_server_are_failures(muse_and_matching):
    done = locust(
        *("-u", "1", "-t", "2s", "--think", "0.1", "--items", "9"),
        *("--model-server", muse_and_matching.grpc, "--model", "unknown"),
        "ModelServerRank",
        code=3,
    )
    found = requests_by_name(done)
    assert set(found) == {"rank"}
    asked, failed = found["rank"]
    assert asked == failed > 0


def test_a_server_must_be_named():
    done = locust("-u", "1", "-t", "1s", code=1)
    assert "Name --service, --service-rest or --model-server" in done.stderr
