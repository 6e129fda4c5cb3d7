"""Settings of candidate generation, and the weights of its score."""

from __future__ import annotations

import dataclasses
import json
import pathlib

from serving.files import write_json

MODEL_NAME = "matching"
"""Name of the served model."""

RANKER_NAME = "muse"
"""Name of the served ranker, whatever its type."""

EVALUATION_FILE = "evaluation.json"

CLICKS_FILE = "item_clicks.npz"
"""Beside it: the items clicked in the train split, and how often."""


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How an item is scored for a user with behaviors b_1 ... b_M.

    ``vector_weight * cos(u, v_item) + popularity_weight * p(item)
    + repeat_weight * log(1 + n(item))``, where u is the mean of the vectors of
    the behaviors, each weighted by ``0.5 ** (age / half_life)``; age counts
    the behaviors after it. p is ``log(1 + clicks)`` in the train split,
    divided by the largest; n counts the item among the behaviors.

    ``popularity_weight`` is above 0, so that a user without any known behavior
    gets the popular items; ``vector_weight`` is 1 but for comparisons.
    """

    half_life: float
    popularity_weight: float
    repeat_weight: float
    vector_weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("half_life", "popularity_weight"):
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"`{name}` must be above 0. Received: {getattr(self, name)}"
                )
        for name in ("repeat_weight", "vector_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(
                    f"`{name}` must not be negative. "
                    f"Received: {getattr(self, name)}"
                )


@dataclasses.dataclass(frozen=True)
class Job:
    """One retrieval model to make, as files and numbers.

    ``train_files`` and ``eval_files`` are patterns of request-grouped Examples.
    `MatchingConfig` says what the numbers are; ``seed`` is the bootstrap's.
    """

    item_table: str
    train_files: str
    eval_files: str
    model_dir: str
    evaluation_dir: str
    num_candidates: int = 500
    max_behaviors: int = 1000
    half_life: float | None = None
    popularity_weight: float | None = None
    repeat_weight: float | None = None
    tune_users: int = 300
    eval_users: int = 5000
    seed: int = 0

    def write(self, path: pathlib.Path) -> None:
        """Writes the job as JSON."""
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def read(cls, path: pathlib.Path) -> Job:
        """Reads what `write` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))
