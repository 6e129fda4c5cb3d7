"""The same training finds its own checkpoint, another one does not."""

from __future__ import annotations

import copy
import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from tfx.types import standard_artifacts

from muse_keras.tables import ItemTable
from schemas.ranking_schema import preset
from tests.tfx_pipeline.training import toy_training
from tfx_pipeline.components import ranker_trainer
from tfx_pipeline.components.artifacts import ItemTableArtifact
from tfx_pipeline.components.ranker_trainer import RankerTrainer
from tfx_pipeline.training import checkpoints, input_fn

pytestmark = pytest.mark.tf

SETTINGS = {
    "model": {"type": "muse", "k": 5},
    "trainer": {"epochs": 1},
    "transform": {"max_history": 9},
    "export": {},
}


class Asked(Exception):
    """Ends the component when it knows where its checkpoints are."""


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
        self.code = "abc"

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

    def checkpoint_dir(self) -> pathlib.Path:
        def artifact(kind, name):
            made = kind()
            made.uri = str(self.root / name)
            return made

        examples = artifact(standard_artifacts.Examples, self.examples)
        examples.split_names = '["train", "eval"]'
        found = []
        directory_of = checkpoints.directory_of

        def stop(*identity):
            found.append(directory_of(*identity))
            raise Asked

        with pytest.MonkeyPatch.context() as patch, pytest.raises(Asked):
            patch.setattr(checkpoints, "directory_of", stop)
            RankerTrainer.test_call(
                examples,
                artifact(standard_artifacts.TransformGraph, self.transform),
                artifact(ItemTableArtifact, self.table_name),
                artifact(standard_artifacts.Model, "model"),
                artifact(standard_artifacts.ModelRun, "run"),
                custom_config=json.dumps(self.settings),
                checkpoint_root=str(self.root_of_checkpoints),
                code_fingerprint=self.code,
            )
        return found[0]


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_the_same_training_finds_its_checkpoint(world):
    first = world.checkpoint_dir()
    assert first.parent == world.root_of_checkpoints
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
        lambda world: setattr(world, "code", "abd"),
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


def test_a_table_of_another_declaration_is_refused(world):
    declared = preset("taobao_mm")
    table = ItemTable.write(
        world.root / "other",
        np.array([4]),
        np.zeros((1, 4), np.int8),
        {},
        "test",
        schema={"digest": "f" * 16},
    )
    with pytest.raises(ValueError, match=f"{declared.digest()}.*digest ffff"):
        ranker_trainer._check_table(table, declared)
    own = ItemTable.write(
        world.root / "own",
        np.array([4]),
        np.zeros((1, 4), np.int8),
        {},
        "test",
        schema={"digest": declared.digest()},
    )
    ranker_trainer._check_table(own, declared)


def test_scores_of_all_labels_are_recorded(tmp_path):
    class Model:
        distribute_strategy = tf.distribute.get_strategy()

        def __call__(self, inputs, training):
            ids = tf.cast(inputs["candidate_item_ids"], tf.float32)
            return tf.stack([ids, -ids], axis=-1)

        def probabilities(self, logits):
            both = tf.sigmoid(logits)
            return {
                "click_probability": both[..., 0],
                "buy_probability": both[..., 1],
            }

    pattern, requests = toy_training.write_requests(tmp_path / "data", 3)
    dataset = input_fn.request_dataset([pattern], toy_training.SPEC, 2)
    found = ranker_trainer._scores(Model(), toy_training.DECLARED, dataset, 3)
    items = found["candidate_item_ids"]
    wanted = 1 / (1 + np.exp(-items.astype(np.float64)))
    np.testing.assert_allclose(found["click_probability"], wanted, rtol=1e-6)
    np.testing.assert_allclose(found["buy_probability"], 1 - wanted, atol=1e-6)
    assert len(items) == found["lengths"].sum()
    assert len(items) == sum(len(one["clicks"]) for one in requests)
