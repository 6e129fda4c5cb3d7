"""SCLTrainer gives `run_fn` its content and a folder of its own."""

from __future__ import annotations

import json
import pathlib

import pytest
from tfx.types import standard_artifacts
from tfx_pipeline.components.item_content_gen.executor import CONTENT_DIR

from tests.tfx_pipeline.scl.toy_search import write_content
from tfx_pipeline.components.artifacts import ItemContentArtifact
from tfx_pipeline.components.scl_trainer import executor

pytestmark = pytest.mark.tf


def custom_config(root: pathlib.Path, content: str, **settings) -> dict:
    """What `run_fn` finds in its arguments."""
    examples = standard_artifacts.Examples()
    examples.uri = str(root / "examples")
    examples.split_names = '["train", "eval"]'
    artifact = ItemContentArtifact()
    artifact.uri = str(root / content)
    model, run = standard_artifacts.Model(), standard_artifacts.ModelRun()
    model.uri, run.uri = str(root / "model"), str(root / "run")
    context = executor.Executor.Context(
        tmp_dir=str(root / "tmp"), unique_id="1"
    )
    settings["checkpoint_root"] = str(root / "checkpoints")
    fn_args = executor.Executor(context)._GetFnArgs(
        {"examples": [examples], "item_content": [artifact]},
        {"model": [model], "model_run": [run]},
        {
            "train_args": '{"splits": ["train"]}',
            "eval_args": '{"splits": ["eval"]}',
            "custom_config": json.dumps(settings),
            "run_fn": "tfx_pipeline.scl.trainer.run_fn",
        },
    )
    return fn_args.custom_config


def test_content_and_checkpoints(tmp_path):
    for number, name in enumerate(("first", "second")):
        write_content(tmp_path / name / CONTENT_DIR, seed=number)
    found = custom_config(tmp_path, "first", epochs=1)
    folder = pathlib.Path(found.pop("checkpoint_dir"))
    assert folder.parent == tmp_path / "checkpoints"
    assert found == {
        "epochs": 1,
        "item_content": str(tmp_path / "first" / CONTENT_DIR),
    }

    def directory(content: str, **settings) -> pathlib.Path:
        given = custom_config(tmp_path, content, **settings)
        return pathlib.Path(given["checkpoint_dir"])

    assert directory("first", epochs=1) == folder
    assert directory("first", epochs=2) != folder
    assert directory("second", epochs=1) != folder
