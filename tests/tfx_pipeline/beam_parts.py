"""The Beam parts of a run, done again by workers in other processes."""

from __future__ import annotations

import contextlib
import copy
import gzip
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pyarrow.parquet as pq
import pytest

from tests.docs.test_docs import ROOT
from tfx_pipeline.beam_config import BeamConfig

WORKER = f"{sys.executable} -m apache_beam.runners.worker.sdk_worker_main"
# TF-Transform puts random names into its graph.
_RANDOM = ("saved_model.pb", "fingerprint.pb")
DYING_WORKER = f"{sys.executable} -m tests.tfx_pipeline.dying_worker"


@contextlib.contextmanager
def recorded(found: dict) -> Iterator[None]:
    """Records what TFX gives to the executor of each Beam component."""
    from tfx.orchestration.portable import beam_executor_operator as operators

    run = operators.BeamExecutorOperator.run_executor

    def run_executor(self, info, *others):
        name = info.pipeline_node.node_info.id
        found[name] = (self._executor_cls, copy.deepcopy(info))
        return run(self, info, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            operators.BeamExecutorOperator, "run_executor", run_executor
        )
        yield


@contextlib.contextmanager
def job_service(folder: pathlib.Path) -> Iterator[BeamConfig]:
    """Starts Beam's job server, whose workers are processes of their own.

    They share no memory, no working directory and no temporary folder with
    this process.
    """
    folder.mkdir()
    port = folder / "port"
    command = [sys.executable, "-m"]
    command += ["apache_beam.runners.portability.local_job_service_main"]
    command += ["--port_file", str(port), "--staging_dir", str(folder / "in")]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        while not port.exists():
            assert server.poll() is None, (folder / "log").read_text()
            time.sleep(0.1)
        yield BeamConfig(
            runner="portable",
            job_endpoint=f"localhost:{port.read_text()}",
            environment="beam:env:harness_subprocess_python:v1",
            environment_config=WORKER,
        )
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def repeat(part, config: BeamConfig, folder: pathlib.Path) -> dict:
    """Runs the executor of a component again; returns its outputs' folders."""
    from tfx.dsl.components.base import base_beam_executor

    executor, recorded_info = part
    info = copy.deepcopy(recorded_info)
    for key, artifacts in info.output_dict.items():
        (artifact,) = artifacts
        artifact.uri = str(folder / key)
        (folder / key).mkdir(parents=True, exist_ok=True)
    if "rejected_dir" in info.exec_properties:
        info.exec_properties["rejected_dir"] = str(folder / "rejected")
    context = base_beam_executor.BaseBeamExecutor.Context(
        beam_pipeline_args=config.flags(),
        tmp_dir=str(folder / "tmp"),
        unique_id="1",
        executor_output_uri=str(folder / "executor_output.pb"),
        stateful_working_dir=str(folder / "state"),
        pipeline_node=info.pipeline_node,
        pipeline_info=info.pipeline_info,
    )
    executor(context).Do(
        info.input_dict, info.output_dict, info.exec_properties
    )
    return folders(info)


def folders(info) -> dict[str, pathlib.Path]:
    """Returns the folders that a component writes, by name."""
    found = {
        key: pathlib.Path(artifact.uri)
        for key, (artifact,) in info.output_dict.items()
    }
    if "rejected_dir" in info.exec_properties:
        found["rejected"] = pathlib.Path(info.exec_properties["rejected_dir"])
    return found


def content(folder: pathlib.Path) -> dict[str, list]:
    """Returns the records of all files below a folder, in any order.

    A shard's number is not part of its name: runners cut shards differently.
    """
    found: dict[str, list] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in _RANDOM:
            name = str(path.relative_to(folder)).partition("-0")[0]
            found.setdefault(name, []).extend(records(path))
    return {
        name: sorted(v if isinstance(v, _Near) else repr(v) for v in values)
        for name, values in found.items()
    }


def records(path: pathlib.Path) -> list:
    import tensorflow as tf

    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".json":
        return [json.loads(path.read_text())]
    if path.suffix == ".tfrecord":
        found = [*tf.data.TFRecordDataset(str(path)).as_numpy_iterator()]
        metrics = path.name.startswith("metrics-")
        return [*map(_metrics, found)] if metrics else found
    if path.parent.name.startswith("Split-") and path.suffix == ".gz":
        read = tf.data.TFRecordDataset(str(path), compression_type="GZIP")
        return [tf.train.Example.FromString(record.numpy()) for record in read]
    data = path.read_bytes()
    return [gzip.decompress(data) if path.suffix == ".gz" else data]


class _Near(str):
    """A text that is equal to another if its numbers are nearly equal."""

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        number = r"\d+\.\d+(?:e-?\d+)?"
        mine, theirs = (
            [*map(float, re.findall(number, str(one)))] for one in (self, other)
        )
        return re.split(number, str(self)) == re.split(
            number, str(other)
        ) and mine == pytest.approx(theirs, rel=1e-6)


def _metrics(record: bytes) -> _Near:
    """Returns the metrics of a slice.

    Scores are float32 and move by their last bits with the size of a batch,
    which Beam chooses by the time that batches take.
    """
    from tensorflow_model_analysis.proto import metrics_for_slice_pb2

    found = metrics_for_slice_pb2.MetricsForSlice.FromString(record)
    metrics = sorted(map(str, found.metric_keys_and_values))
    return _Near("\n".join([str(found.slice_key), *metrics]))
