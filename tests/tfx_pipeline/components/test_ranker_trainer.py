"""The same training finds its own checkpoint, another one does not."""

from __future__ import annotations

import copy
import json
import pathlib

import numpy as np
import pytest
from tfx.types import standard_artifacts

from muse_keras.tables import ItemTable
from tfx_pipeline.components.artifacts import ItemTableArtifact
from tfx_pipeline.components.ranker_trainer import executor

pytestmark = pytest.mark.tf

SETTINGS = {
    "model": {"type": "muse", "k": 5},
    "trainer": {"epochs": 1},
    "code_fingerprint": "abc",
}


class World:
    """Artifacts in a folder, as the Trainer gets them."""

    def __init__(self, root: pathlib.Path):
        self.root = root
        self.settings = copy.deepcopy(SETTINGS)
        self.root_of_checkpoints = root / "checkpoints"
        self.table_name = "table_artifact"
        self.write_table("table_artifact", 3)
        self.examples = "examples"
        self.transform = "transform"

    def write_table(self, name, code):
        codes = np.zeros((2, 128), np.int8)
        codes[0] = code
        ItemTable.write(
            self.root / name / "table",
            np.array([4, 5]),
            codes,
            {
                key: np.zeros(2, np.int64)
                for key in ("category", "city", "province")
            },
            source="test",
        )
        self.table_name = name

    def fn_args(self):
        examples = standard_artifacts.Examples()
        examples.uri = str(self.root / self.examples)
        examples.split_names = '["train", "eval"]'
        transform = standard_artifacts.TransformGraph()
        transform.uri = str(self.root / self.transform)
        table = ItemTableArtifact()
        table.uri = str(self.root / self.table_name)
        model = standard_artifacts.Model()
        model.uri = str(self.root / "model")
        run = standard_artifacts.ModelRun()
        run.uri = str(self.root / "run")
        context = executor.Executor.Context(
            tmp_dir=str(self.root / "tmp"), unique_id="1"
        )
        settings = {
            **self.settings,
            "checkpoint_root": str(self.root_of_checkpoints),
        }
        return executor.Executor(context)._GetFnArgs(
            {
                "examples": [examples],
                "transform_graph": [transform],
                "item_table": [table],
            },
            {"model": [model], "model_run": [run]},
            {
                "train_args": '{"splits": ["train"]}',
                "eval_args": '{"splits": ["eval"]}',
                "custom_config": json.dumps(settings),
                "run_fn": "tfx_pipeline.training.trainer.run_fn",
            },
        )

    def checkpoint_dir(self):
        return pathlib.Path(self.fn_args().custom_config["checkpoint_dir"])


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_run_fn_gets_table_checkpoint_and_settings(world):
    args = world.fn_args()
    assert args.custom_config["item_table"] == str(
        world.root / "table_artifact" / "table"
    )
    assert world.checkpoint_dir().parent == world.root_of_checkpoints
    assert args.custom_config["model"] == SETTINGS["model"]
    assert "checkpoint_root" not in args.custom_config
    assert [pathlib.Path(p).parent.name for p in args.train_files] == [
        "Split-train"
    ]
    assert [pathlib.Path(p).parent.name for p in args.eval_files] == [
        "Split-eval"
    ]
    assert args.transform_graph_path == str(world.root / "transform")


def test_the_same_training_finds_its_checkpoint(world):
    first = world.checkpoint_dir()
    assert world.checkpoint_dir() == first
    # The same table elsewhere, and keys in another order.
    world.write_table("copy", 3)
    world.settings = dict(reversed(world.settings.items()))
    assert world.checkpoint_dir() == first
    # Where checkpoints lie says nothing about what is trained.
    world.root_of_checkpoints = world.root / "elsewhere"
    assert world.checkpoint_dir().name == first.name


@pytest.mark.parametrize(
    "change",
    [
        lambda world: world.settings["model"].update(k=6),
        lambda world: world.settings["trainer"].update(epochs=2),
        lambda world: world.settings.update(code_fingerprint="abd"),
        lambda world: world.write_table("other_table", 4),
        lambda world: setattr(world, "examples", "other_examples"),
        lambda world: setattr(world, "transform", "other_transform"),
    ],
    ids=["model", "trainer", "code", "items", "examples", "transform"],
)
def test_another_training_has_another_checkpoint(world, change):
    first = world.checkpoint_dir()
    change(world)
    assert world.checkpoint_dir().name != first.name
