"""Where the inputs of the cells of one data set lie."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Inputs of the cells of one data set.

    Attributes:
        transform_graph: folder of Transform's graph.
        train_files: pattern of train requests by history length (0: all).
        eval_files: the same of the test requests.
        item_tables: folder by name of the item vectors.
        impressions: file of the test impressions.
        digests: of each of these files, by a name.
        settings: sections ``model`` and ``trainer`` of the pipeline.
        max_history: ``transform.max_history``.
        description: of the data set, for people.
    """

    transform_graph: str
    train_files: dict[int, str]
    eval_files: dict[int, str]
    item_tables: dict[str, str]
    impressions: str
    digests: dict[str, str]
    settings: dict[str, Any]
    max_history: int
    description: dict[str, Any]
