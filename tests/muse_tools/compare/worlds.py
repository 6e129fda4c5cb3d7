"""Hand-made comparisons: prepared data, cells and plans without TFX."""

from __future__ import annotations

import json
import pathlib

import numpy as np

from muse_tools.compare.config import CompareConfig
from muse_tools.compare.grid import Cell, Column, Method
from muse_tools.compare.impressions import Impressions
from muse_tools.compare.plan import Plan, Prepared, Task
from muse_tools.compare.scores import StoredCell
from schemas.ranking_schema import preset

MODEL = {
    "embedding_dim": 4,
    "k": 3,
    "recent": 3,
    "num_tiers": 4,
    "hidden_units": [8],
    "hash_bits": 8,
    "hash_rounds": 2,
}


def config(**changes) -> CompareConfig:
    values = {
        "name": "toy",
        "output_dir": "unused",
        "data_sets": {"toy": {"pipeline": "none.yaml"}},
        "seeds": (1, 2),
        "ablation_seeds": (1,),
        "methods": ("din", "muse"),
        "activity_bounds": (5,),
        "popularity_bounds": (3,),
        "bootstrap_samples": 200,
    }
    return CompareConfig.model_validate({**values, **changes})


def prepared(**changes) -> Prepared:
    values = {
        "transform_graph": "graph",
        "train_files": {0: "train"},
        "eval_files": {0: "eval"},
        "item_tables": {"base": "items"},
        "impressions": "impressions.npz",
        "digests": {
            "train": "a",
            "eval": "b",
            "vocabularies": "c",
            "items/base": "d",
        },
        "settings": {
            "model": MODEL,
            "trainer": {"batch_requests": 4},
            "schema": preset("taobao_mm").model_dump(mode="json"),
        },
        "max_history": 30,
        "description": {"source": "toy", "item_embeddings": "imported"},
    }
    return Prepared(**{**values, **changes})


def cell(method="muse", seed=1, **column) -> Cell:
    return Cell("toy", Column(Method(method), **column), seed)


def impressions(users=40, per_user=12, seed=0) -> Impressions:
    rng = np.random.default_rng(seed)
    count = users * per_user
    clicks = (rng.random(count) < 0.3).astype(np.int64)
    # One user has clicks only.
    clicks[:per_user] = 1
    return Impressions(
        user_ids=np.repeat(np.arange(users) * 7 - 20, per_user),
        clicks=clicks,
        history=np.repeat(rng.integers(0, 12, users), per_user),
        popularity=rng.integers(0, 7, count),
        repeats=rng.integers(0, 3, count),
    )


def stored(shown: Impressions, quality: float, seed: int) -> StoredCell:
    """Scores that follow the clicks more the higher the quality."""
    rng = np.random.default_rng([seed, int(quality * 1000)])
    noise = rng.normal(size=len(shown.clicks))
    scores = 1 / (1 + np.exp(-(quality * shown.clicks + noise - 1)))
    return StoredCell(
        # Rounded: there are ties.
        np.round(scores, 2).astype(np.float32),
        {
            "gauc": 0.5,
            "auc": 0.5 + seed / 100,
            "log_loss": 0.4,
            "calibration": float("nan") if quality > 90 else 1.1,
            "parameters": 1000,
            "parameters_without_tables": 100,
            "train_seconds": 2.0 * seed,
            "score_seconds": 1.0,
        },
    )


def plan(root: pathlib.Path, names=("a", "b", "c")) -> Plan:
    tasks = tuple(Task(f"key-{n}", f"cell {n}", "toy", {}) for n in names)
    return Plan(root, {}, tasks, 4)


def write_cell(made: Plan, task: Task, found: StoredCell | None = None):
    """Writes a cell's folder as `run_cell` does."""
    folder = made.folder(task)
    folder.mkdir(parents=True)
    if found is None:
        found = StoredCell(np.zeros(1, np.float32), {"by": "hand"})
    np.savez_compressed(folder / "scores.npz", scores=found.scores)
    (folder / "metrics.json").write_text(json.dumps(found.metrics))
