"""How the process that makes the model is run, with a stand-in for it."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import stat
import sys

import pytest

from tfx_pipeline.config import MatchingConfig
from tfx_pipeline.matching import process
from tfx_pipeline.matching.settings import Job

JOB = Job("table", "train", "eval", "model", "evaluation", half_life=2.5)


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Lets a shell script be the Python of the child."""

    def use(script: str) -> None:
        file = tmp_path / "python"
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(sys, "executable", str(file))

    return use


def test_job_environment_and_lines(stand_in, monkeypatch):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "0")
    stand_in('echo "$TF_USE_LEGACY_KERAS $2"; echo "$PYTHONPATH"; cat "$3"')
    lines: list[str] = []
    process.run_job(JOB, lines.append)
    assert lines[0] == "1 tfx_pipeline.matching.job"
    # The child finds this very code.
    root = pathlib.Path(process.__file__).parents[2]
    assert lines[1].split(os.pathsep)[0] == str(root)
    assert '"half_life": 2.5,' in "".join(lines[2:])


def test_job_round_trip(tmp_path):
    JOB.write(tmp_path / "job.json")
    assert Job.read(tmp_path / "job.json") == JOB


def test_the_configuration_holds_the_settings_of_a_job():
    config = MatchingConfig(half_life=4)
    job = Job(
        *("table", "train", "eval", "model", "evaluation"),
        **config.model_dump(
            exclude={"enabled", "min_recall", "exact_items", "directory"}
        ),
    )
    assert (job.half_life, job.repeat_weight) == (4, None)
    # A job made by hand has the same defaults.
    assert dataclasses.replace(job, half_life=None) == Job(
        "table", "train", "eval", "model", "evaluation"
    )


def test_failure_names_the_reason(stand_in):
    stand_in("echo working; echo noise >&2; echo 'no vectors' >&2; exit 3")
    lines: list[str] = []
    with pytest.raises(
        process.MatchingFailed, match=r"ended with 3: noise \| no vectors"
    ):
        process.run_job(JOB, lines.append)
    assert lines == ["working"]


def test_the_child_does_not_outlive_its_parent(stand_in, tmp_path):
    stand_in(f"echo $$ > {tmp_path}/pid; echo up; exec sleep 60")

    class Stopped(Exception):
        pass

    def report(line: str) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        process.run_job(JOB, report)
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
