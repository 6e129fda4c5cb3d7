"""``TF_CONFIG`` of Kubeflow and Vertex, and processes that end early."""

from __future__ import annotations

import json
import pathlib
import time

import pytest

from serving.files import write_json
from tfx_pipeline.training import workers

# As TFJob's operator and Vertex AI write it, apart from the names of hosts.
TFJOB = {
    "cluster": {
        "chief": ["ranker-chief-0.ns.svc:2222"],
        "worker": [
            "ranker-worker-0.ns.svc:2222",
            "ranker-worker-1.ns.svc:2222",
        ],
    },
    "task": {"type": "worker", "index": 1},
    "environment": "cloud",
}
VERTEX = {
    "cluster": {
        "chief": ["cmle-training-workerpool0-0:2222"],
        "worker": ["cmle-training-workerpool1-0:2222"],
    },
    "task": {
        "type": "chief",
        "index": 0,
        "trial": "0",
        "cloud": "project",
    },
    "job": '{"python_module": "", "package_uris": []}',
    "environment": "cloud",
}


def read(config):
    return workers.cluster({"TF_CONFIG": json.dumps(config)})


def test_roles_and_the_chief_are_read():
    found = read(TFJOB)
    assert (workers.count(found), workers.is_chief(found)) == (3, False)
    found = read(VERTEX)
    assert (workers.count(found), workers.is_chief(found)) == (2, True)
    for index, config in enumerate(workers.local_clusters(3)):
        assert workers.count(read(config)) == 3
        assert workers.is_chief(read(config)) == (index == 0)


def test_one_worker_is_no_cluster():
    assert workers.cluster({}) is None
    assert workers.cluster({"TF_CONFIG": ""}) is None
    assert read(workers.local_clusters(1)[0]) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cluster": {"ps": ["a:1"], "worker": ["b:1"]}}, "Received: ps"),
        (
            {"task": {"type": "evaluator", "index": 0}},
            "remove the others.*Received: evaluator",
        ),
        ({"task": {"type": "worker", "index": 2}}, "Received: worker 2"),
        ({"task": {"type": "worker"}}, "expected.*cluster"),
        ({"cluster": ["a:1"]}, "expected.*cluster"),
    ],
)
def test_other_roles_and_malformed_values_are_refused(change, message):
    with pytest.raises(ValueError, match=f"TF_CONFIG: .*{message}"):
        read(TFJOB | change)
    with pytest.raises(ValueError, match="TF_CONFIG: .*Received: nonsense"):
        workers.cluster({"TF_CONFIG": "nonsense"})


def test_if_one_process_fails_the_others_are_stopped(tmp_path, monkeypatch):
    (tmp_path / "member.py").write_text(
        "import json, os, sys, time\n"
        "if json.loads(os.environ['TF_CONFIG'])['task']['index']:\n"
        "    sys.exit('no file')\n"
        "time.sleep(100)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    start = time.monotonic()
    with pytest.raises(
        workers.WorkerLost, match="worker 1 ended with 1: no file; .* resumes"
    ):
        workers.run(workers.local_clusters(2), "member", [])
    assert time.monotonic() - start < 90


def test_workers_wait_for_the_job_of_the_chief(tmp_path, monkeypatch):
    ran = []
    waits = []

    def run(configs, module, arguments):
        (path,) = arguments
        ran.append((configs, json.loads(pathlib.Path(path).read_text())))
        if configs == [VERTEX]:  # The chief; the worker comes meanwhile.
            workers.follow(tmp_path / "root", TFJOB)

    def sleep(seconds):
        waits.append(seconds)
        workers.train(tmp_path / "root", {"name": "job"}, [VERTEX])
        write_json(tmp_path / "root" / "ranker_job.json", {"name": "next"})

    monkeypatch.setattr(workers, "run", run)
    monkeypatch.setattr(workers.time, "sleep", sleep)
    workers.follow(tmp_path / "root", TFJOB)
    job = {"name": "job"}
    assert ran == [([VERTEX], job), ([TFJOB], job), ([TFJOB], {"name": "next"})]
    assert len(waits) == 1
