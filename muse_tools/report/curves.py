"""Training curves."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np

__all__ = ["training_curve"]

_POINTS = 60


def training_curve(path: pathlib.Path, points: int = _POINTS) -> dict[str, Any]:
    """Reads the training loss, averaged over equal stretches of steps.

    Args:
        path: lines of JSON with ``step`` and ``loss``.
        points: at most so many stretches.

    Returns:
        ``steps`` (mean of each stretch), ``loss`` and ``total`` steps.
    """
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    steps = np.array([line["step"] for line in lines])
    losses = np.array([line["loss"] for line in lines], float)
    parts = np.array_split(np.arange(len(lines)), min(points, len(lines)))
    return {
        "steps": [int(steps[part].mean()) for part in parts],
        "loss": [float(losses[part].mean()) for part in parts],
        "total": int(steps[-1]),
    }
