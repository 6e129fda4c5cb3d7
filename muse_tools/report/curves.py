"""Charts of both the page of a pipeline and that of a comparison."""

from __future__ import annotations

import itertools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from muse_tools.pages.blocks import Chart, Line, Point

_POINTS = 60


def training_curve(path: pathlib.Path, points: int = _POINTS) -> dict[str, Any]:
    """Reads the training loss, averaged over at most `points` equal parts."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    steps = np.array([line["step"] for line in lines])
    losses = np.array([line["loss"] for line in lines], float)
    parts = np.array_split(np.arange(len(lines)), min(points, len(lines)))
    return {
        "steps": [int(steps[part].mean()) for part in parts],
        "loss": [float(losses[part].mean()) for part in parts],
        "total": int(steps[-1]),
    }


def tier_edges(count: int) -> list[str]:
    """Returns the lower edges of SimTier's tiers."""
    return [f"{-1 + 2 * tier / count:.2g}" for tier in range(count)]


def tier_chart(
    title: str,
    y: str,
    values: Mapping[str, Sequence[float]],
    edges: Sequence[str],
    caption: str,
    base: float = 0.0,
) -> Chart:
    """Draws bars by tier of similarity."""
    return Chart(
        title,
        "cosine similarity, lower edge of the tier",
        y,
        [
            Line(name, list(itertools.starmap(Point, enumerate(of_name))))
            for name, of_name in values.items()
        ],
        caption,
        "bars",
        edges,
        base,
    )


def loss_chart(
    curves: Mapping[str, Mapping[str, Any]], note: str = ""
) -> Chart:
    """Draws `training_curve` of each model."""
    return Chart(
        "Training loss over steps",
        "training step",
        "log loss",
        [
            Line(name, list(map(Point, curve["steps"], curve["loss"])))
            for name, curve in curves.items()
        ],
        "Log loss of training batches, averaged over stretches of steps."
        + note,
    )


def calibration_chart(
    rates: Mapping[str, Sequence[Mapping[str, float]]], note: str = ""
) -> Chart:
    """Draws `scores.calibration` of each model."""
    return Chart(
        "Observed over predicted click rate of tenths of the impressions, with "
        "95 % intervals",
        "predicted click rate",
        "observed click rate",
        [
            Line(
                name,
                [
                    Point(
                        row["predicted"],
                        row["observed"],
                        row["lower"],
                        row["upper"],
                    )
                    for row in rows
                ],
            )
            for name, rows in rates.items()
        ],
        "Observed over predicted click rate of the held-out impressions, in "
        "tenths of equally many by score, with 95 % intervals; on the dashed "
        "line a prediction is right." + note,
        style="dots",
        diagonal=True,
    )
