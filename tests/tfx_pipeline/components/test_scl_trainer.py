"""SCLTrainer gives the training its files and checkpoints of its own."""

from __future__ import annotations

import json
import pathlib

import pytest
from tfx.types import standard_artifacts

from tests.tfx_pipeline.scl.toy_search import write_content
from tfx_pipeline.components.artifacts import CONTENT_DIR, ItemContentArtifact
from tfx_pipeline.components.scl_trainer import SCLTrainer
from tfx_pipeline.scl import trainer

pytestmark = pytest.mark.tf


def given(root: pathlib.Path, content: str, code: str = "", **settings) -> dict:
    """What the training is given."""
    artifacts = []
    for kind, name in (
        (standard_artifacts.Examples, "examples"),
        (ItemContentArtifact, content),
        (standard_artifacts.Model, "model"),
        (standard_artifacts.ModelRun, "run"),
    ):
        artifacts.append(kind())
        artifacts[-1].uri = str(root / name)
    artifacts[0].split_names = '["train", "eval"]'
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "run", lambda *_, **given: found.update(given))
        SCLTrainer.test_call(
            *artifacts,
            custom_config=json.dumps({"scl": settings}),
            raw_dir="raw",
            raw_fingerprint="",
            checkpoint_root=str(root / "checkpoints"),
            code_fingerprint=code,
        )
    return found


def test_files_and_checkpoints(tmp_path):
    for number, name in enumerate(("first", "second")):
        write_content(tmp_path / name / CONTENT_DIR, seed=number)
    found = given(tmp_path, "first", epochs=1)
    folder = found.pop("checkpoint_dir")
    assert folder.parent == tmp_path / "checkpoints"
    examples = tmp_path / "examples"
    assert found == {
        "train_files": [str(examples / "Split-train" / "*")],
        "eval_files": [str(examples / "Split-eval" / "*")],
        "raw_dir": "raw",
        "run_dir": tmp_path / "run",
        "model_dir": tmp_path / "model" / "Format-Serving",
    }

    def directory(*arguments, **settings) -> pathlib.Path:
        return given(tmp_path, *arguments, **settings)["checkpoint_dir"]

    assert directory("first", epochs=1) == folder
    assert directory("first", epochs=2) != folder
    assert directory("first", "other code", epochs=1) != folder
    assert directory("second", epochs=1) != folder
