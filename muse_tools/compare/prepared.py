"""Where the inputs of the cells of one data set lie."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Inputs of the cells of one data set, by paths and patterns."""

    transform_graph: str
    train_files: dict[int, str]
    """Patterns of requests by history length; 0 has all behaviors."""
    eval_files: dict[int, str]
    item_tables: dict[str, str]
    """Folders by name of the item vectors."""
    impressions: str
    digests: dict[str, str]
    settings: dict[str, Any]
    """Sections ``model`` and ``trainer`` of the pipeline."""
    max_history: int
    description: dict[str, Any]
