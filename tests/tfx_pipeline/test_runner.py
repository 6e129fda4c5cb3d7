"""Fingerprints and the watch over TFX's log."""

from __future__ import annotations

import logging
import os
import pathlib

import pytest
from absl import logging as absl_logging

from tfx_pipeline import progress, runner

pytestmark = pytest.mark.tf


def test_every_stage_has_files_of_its_own():
    for stage, places in runner._STAGES.items():
        for place in places:
            path = runner._PROJECT / place
            assert path.is_file() or list(path.rglob("*.py")), (stage, place)
    fingerprints = runner.code_fingerprints()
    assert len(set(fingerprints.values())) == len(runner._STAGES)
    assert runner.code_fingerprints() == fingerprints


def test_code_that_changes_changes_the_stages_that_use_it(
    tmp_path, monkeypatch
):
    for places in runner._STAGES.values():
        for place in places:
            source = runner._PROJECT / place
            files = [source] if source.is_file() else source.rglob("*.py")
            for file in files:
                copy = tmp_path / file.relative_to(runner._PROJECT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(file.read_bytes())
    monkeypatch.setattr(runner, "_PROJECT", tmp_path)
    before = runner.code_fingerprints()

    def changed_by(name):
        path = tmp_path / name
        text = path.read_bytes()
        path.write_bytes(text + b"#")
        after = runner.code_fingerprints()
        path.write_bytes(text)
        return {stage for stage in before if after[stage] != before[stage]}

    assert changed_by("tfx_pipeline/transforms/request_join.py") == {"join"}
    assert changed_by("tfx_pipeline/data/validation.py") == {"join", "items"}
    assert changed_by("tfx_pipeline/preprocessing.py") == {"transform"}
    assert changed_by("tfx_pipeline/trainer.py") == {"trainer"}
    assert changed_by("tfx_pipeline/evaluation/gauc.py") == {"evaluator"}
    assert changed_by("muse_keras/metrics/per_group_auc.py") == {
        "trainer",
        "evaluator",
    }


def write_tables(folder: pathlib.Path) -> pathlib.Path:
    folder.mkdir()
    for name in ("train_samples", "item_features"):
        (folder / f"{name}.parquet").write_bytes(b"abc")
    return folder


def test_raw_fingerprint_notices_other_tables(tmp_path):
    folder = write_tables(tmp_path / "raw")
    first = runner.raw_fingerprint(str(folder))
    assert runner.raw_fingerprint(str(folder)) == first
    path = folder / "item_features.parquet"
    seen = {first}
    path.write_bytes(b"abcd")
    seen.add(runner.raw_fingerprint(str(folder)))
    # The same size at another time.
    path.write_bytes(b"abce")
    os.utime(path, ns=(1, 1))
    seen.add(runner.raw_fingerprint(str(folder)))
    (folder / "test_samples.parquet").write_bytes(b"x")
    seen.add(runner.raw_fingerprint(str(folder)))
    assert len(seen) == 4


def test_watch_reports_components_and_restores_logging(tmp_path):
    root = logging.getLogger()
    before = (root.handlers[:], root.level, absl_logging.get_verbosity())
    lines = []
    log_path = tmp_path / "logs" / "run.log"
    with runner._watched(log_path, lines.append) as watch:
        absl_logging.info("Component %s is running.", "Trainer")
        progress.report("step 1")
        absl_logging.info("Component Trainer is finished.")
        absl_logging.info("Component Pusher is running.")
        absl_logging.info("A cached execution 5 is used.")
        absl_logging.info("Component Pusher is finished.")
        absl_logging.info("Component Last is running.")
    assert watch.component == "Last"
    assert lines[:2] == ["Trainer …", "step 1"]
    assert lines[2].startswith("Trainer done in ")
    assert lines[4].startswith("Pusher from the cache in ")
    assert lines[5:] == ["Last …"]
    text = log_path.read_text()
    assert "step 1" in text and "A cached execution 5" in text
    assert (root.handlers, root.level, absl_logging.get_verbosity()) == before


def test_failure_is_one_line_with_component_reason_and_log():
    failure = runner.ComponentFailed(
        "Trainer", "no data.", pathlib.Path("/x/run.log")
    )
    assert str(failure) == "Trainer failed: no data. Log: /x/run.log"
