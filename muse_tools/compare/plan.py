"""The cells of a comparison with their settings, keys and folders."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from muse_tools.compare import keys
from muse_tools.compare.grid import Cell
from tfx_pipeline import config as pipeline_config

FORMAT_VERSION = 1
"""Version of the files in a cell's folder."""

METRICS_FILE = "metrics.json"


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Inputs of the cells of one data set: paths, patterns and settings."""

    transform_graph: str
    train_files: dict[int, str]
    """File patterns of requests by history length; 0: all behaviors."""
    eval_files: dict[int, str]
    item_tables: dict[str, str]
    """Folders by the name of the item vectors."""
    impressions: str
    digests: dict[str, str]
    settings: dict[str, Any]
    """Sections ``model`` and ``trainer`` of the pipeline, and ``schema``."""
    max_history: int
    description: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Task:
    """A cell that can be trained.

    `key` is the digest of everything that determines the result. `settings` has
    ``model``, ``trainer``, ``schema``, ``embeddings`` and ``history``.
    """

    key: str
    name: str
    data_set: str
    settings: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Plan:
    """All cells, their prepared data by data set, and their root folder."""

    root: pathlib.Path
    data: dict[str, Prepared]
    tasks: tuple[Task, ...]
    score_batch: int

    def folder(self, task: Task) -> pathlib.Path:
        """Returns the folder of a finished cell."""
        return self.root / "cells" / task.key

    def lock(self, task: Task) -> pathlib.Path:
        """Returns the file that is locked while a cell is trained."""
        return self.root / "locks" / task.key

    def failure(self, task: Task) -> pathlib.Path:
        """Returns the file that records a failure."""
        return self.root / "failures" / f"{task.key}.json"

    def leftovers(self, task: Task) -> list[pathlib.Path]:
        """Returns temporary folders of processes that train or trained it."""
        return list((self.root / "cells").glob(f".{task.key}.*"))

    def open(self, task: Task) -> bool:
        """Returns whether a cell is neither finished nor failed."""
        return not self.done(task) and not self.failure(task).is_file()

    def done(self, task: Task) -> bool:
        """Returns whether a cell is finished."""
        return (self.folder(task) / METRICS_FILE).is_file()


def make_plan(
    root: pathlib.Path,
    cells: Sequence[Cell],
    data: Mapping[str, Prepared],
    score_batch: int,
) -> tuple[Plan, dict[Cell, Task]]:
    """Returns the plan of a grid and the task of each cell."""
    tasks = {cell: _task(cell, data[cell.data_set]) for cell in cells}
    return Plan(root, dict(data), tuple(tasks.values()), score_batch), tasks


def _task(cell: Cell, data: Prepared) -> Task:
    column, method = cell.column, cell.column.method
    values = {
        **data.settings["model"],
        "type": method.type,
        "gsu": method.gsu or None,
        "esu": method.esu or None,
    }
    model = pipeline_config.ModelConfig.model_validate(values)
    trainer = pipeline_config.TrainerConfig.model_validate(
        {
            **data.settings["trainer"],
            # As in the paper: these models overfit in a second epoch.
            "epochs": 1,
            "seed": cell.seed,
            "checkpoint_steps": 0,
        }
    )
    settings = {
        "model": model.model_dump(mode="json"),
        "trainer": trainer.model_dump(mode="json"),
        "schema": data.settings["schema"],
    }
    key = keys.digest(
        {
            "format": FORMAT_VERSION,
            **settings,
            "history": column.history,
            "data": {
                name: data.digests[name]
                for name in (
                    "train",
                    "eval",
                    "vocabularies",
                    f"items/{column.embeddings}",
                )
            },
            "code": keys.code_digest(),
        }
    )
    return Task(
        key,
        cell.name,
        cell.data_set,
        {
            **settings,
            "embeddings": column.embeddings,
            "history": column.history,
        },
    )
