"""Training in several processes gives the model of one."""

from __future__ import annotations

import json
import pathlib
import signal
import subprocess
import threading
import time

import numpy as np
import pytest

from tests.tfx_pipeline.training import toy_training
from tfx_pipeline.training import workers

pytestmark = [pytest.mark.tf, pytest.mark.once, pytest.mark.timeout(900)]

PROGRAM = "tests.tfx_pipeline.training.train_on_workers"
ROOT = pathlib.Path(__file__).parents[3]
# 4 shards of 5 files: one has 11 requests, the others 6, two in each step.
REQUESTS = 29
EPOCHS = 3
# The tables of items and of user features have as many rows; the others do not.
DIVIDED = 20


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return run(prepared(tmp_path_factory.mktemp("one")), 1)


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


def prepared(folder: pathlib.Path) -> pathlib.Path:
    toy_training.write_requests(folder / "data", REQUESTS, files=5)
    toy_training.write_items(folder / "table")
    return folder


def run(folder: pathlib.Path, count: int, divided: int = 0):
    """Trains; returns the weights of each worker, and the losses."""
    clusters = workers.local_clusters(count)
    arguments = [str(folder), str(EPOCHS), str(divided)]
    workers.run(clusters, PROGRAM, arguments)
    weights = []
    for worker in range(count):
        with np.load(folder / f"weights{worker}.npz") as stored:
            weights.append(dict(stored))
    lines = (folder / "curve.jsonl").read_text().splitlines()
    return weights, [json.loads(line)["loss"] for line in lines]


def assert_like_alone(found, alone):
    weights, losses = found
    (wanted,), wanted_losses = alone
    for name, value in wanted.items():
        whole = [one[name] for one in weights if name in one]
        # All workers hold the same bits, or each its rows.
        for one in whole:
            np.testing.assert_array_equal(one, whole[0])
        (together,) = whole[:1] or [of_shards(weights, name, len(value))]
        np.testing.assert_allclose(
            together, value, rtol=1e-4, atol=2e-5, err_msg=name
        )
    np.testing.assert_allclose(losses, wanted_losses, rtol=1e-4)


def of_shards(weights, name, rows):
    """Returns a table from the rows of all workers."""
    count = len(weights)
    names = [f"{name} {worker} of {count}" for worker in range(count)]
    # A worker may hold the rows of another's number.
    parts = {n: one[n] for one in weights for n in one.keys() & {*names}}
    assert len(parts) == count
    assert len(parts[names[0]]) == -(-rows // count)
    return np.stack([parts[n] for n in names], 1).reshape(
        -1, *parts[names[0]].shape[1:]
    )[:rows]


def test_four_of_which_one_is_killed_and_two_that_resume(tmp_path, alone):
    """Another number of workers continues, since the shards are the same.

    Each holds a part of the table of items; one process then reads it whole.
    """
    prepared(tmp_path)
    started = []
    popen = subprocess.Popen

    def kill_when_saved():
        while not (tmp_path / "checkpoints" / "checkpoint").exists():
            time.sleep(0.01)
        started[1].send_signal(signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:

        def start(*arguments, **options):
            started.append(popen(*arguments, **options))
            return started[-1]

        patch.setattr(workers.subprocess, "Popen", start)
        killer = threading.Thread(target=kill_when_saved)
        killer.start()
        with pytest.raises(workers.WorkerLost, match="worker 1 ended with -9"):
            run(tmp_path, 4, DIVIDED)
        killer.join()
    for process in started:
        assert process.wait(30) is not None
    assert not (tmp_path / "weights0.npz").exists()
    resumed = run(tmp_path, 2, DIVIDED)
    # Both tables with both moments of each, codes and norms of the items.
    assert sum(" of 2" in name for name in resumed[0][0]) == 8
    assert_like_alone(resumed, alone)
    ended = run(tmp_path, 1)
    assert_like_alone(ended, alone)
    for name, value in ended[0][0].items():
        if name not in resumed[0][0]:
            together = of_shards(resumed[0], name, len(value))
            np.testing.assert_array_equal(value, together)
    kept = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert sum(name.startswith("tables-") for name in kept) == 3, kept
