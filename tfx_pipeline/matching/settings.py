"""Settings of candidate generation, and the weights of its score."""

from __future__ import annotations

import dataclasses
import json
import pathlib

from serving.files import write_json

MODEL_NAME = "matching"
"""Name of the served model."""

RANKER_NAME = "muse"
"""Name of the served ranker, for every type."""

EVALUATION_FILE = "evaluation.json"

CLICKS_FILE = "item_clicks.npz"
"""File beside it: the items clicked in the train split and their counts."""

CENTROIDS_FILE = "centroids.npy"
"""File of the centroids of items, float32 (C, D), in a folder of clusters."""

CLUSTERS_PREFIX = "clusters-"
"""Begin of the names of the files with the cluster of each item."""


@dataclasses.dataclass(frozen=True)
class Scoring:
    """Weights of the score of an item for a user with behaviors b_1 ... b_M.

    The score is ``vector_weight * cos(u, v_item) + popularity_weight * p(item)
    + repeat_weight * log(1 + n(item))``. u is the mean of the behaviors'
    vectors, weighted by ``0.5 ** (age / half_life)``; age is the number of
    newer behaviors. p is ``log(1 + clicks)`` in the train split, divided by its
    maximum. n is the number of behaviors with the item.

    ``popularity_weight`` is above 0, so that users without a known behavior get
    popular items. ``vector_weight`` is 1, except for comparisons.

    Raises:
        ValueError: a weight is out of range.
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
    """Files and settings of one retrieval model.

    ``train_clicks`` and ``eval_clicks`` are files of `clicks.Clicks`;
    ``clusters`` is a folder of `inputs.write_clusters`, or "" for an exact
    index. `MatchingConfig` describes the numbers; ``seed`` is that of the
    bootstrap and of the clusters.
    """

    item_table: str
    train_clicks: str
    eval_clicks: str
    model_dir: str
    evaluation_dir: str
    clusters: str = ""
    num_candidates: int = 500
    max_behaviors: int = 1000
    half_life: float | None = None
    popularity_weight: float | None = None
    repeat_weight: float | None = None
    tune_users: int = 300
    eval_users: int = 5000
    index_recall: float = 0.95
    seed: int = 0

    def write(self, path: pathlib.Path) -> None:
        """Writes the job as JSON."""
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def read(cls, path: pathlib.Path) -> Job:
        """Reads what `write` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))
