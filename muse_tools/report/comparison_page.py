"""The page of a comparison, with charts of its trainings if available."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from muse_tools.compare.results import DataSetResults, Results
from muse_tools.compare.scores import read_cell
from muse_tools.compare.view import comparison_view, first_seeds
from muse_tools.pages import html
from muse_tools.pages.blocks import Chart
from muse_tools.report.curves import (
    calibration_chart,
    loss_chart,
    training_curve,
)
from muse_tools.report.scores import calibration
from tfx_pipeline.training.trainer import CURVES_FILE

_POINTS = 30


def render(results: Results, folder: pathlib.Path | None = None) -> str:
    """Returns the page as HTML.

    `folder` is the output folder of the comparison. Its cells have the training
    curves and scores, which are not in ``results.json``.
    """
    training = None
    if folder is not None and (folder / "cells").is_dir():
        training = functools.partial(_training, folder)
    return html.page(
        f"Comparison: {results.name}", comparison_view(results, training)
    )


def _training(
    folder: pathlib.Path, name: str, data: DataSetResults
) -> list[Chart]:
    """Returns charts of loss and calibration of the methods' first seed."""
    keys = {cell.name: cell.key for cell in data.cells if cell.status == "done"}
    cells = {
        method: folder / "cells" / key
        for method, seed in first_seeds(data).items()
        if (key := keys.get(f"{method}, seed {seed}"))
        and (folder / "cells" / key).is_dir()
    }
    seeds = ", ".join(sorted(set(map(str, first_seeds(data).values()))))
    curves = {
        method: training_curve(path / CURVES_FILE, _POINTS)
        for method, path in cells.items()
        if (path / CURVES_FILE).is_file()
    }
    rates = dict(_rates(folder / "data" / name, data, cells))
    charts: list[tuple[Callable[..., Chart], Any]] = [
        (loss_chart, curves),
        (calibration_chart, rates),
    ]
    return [make(found, f" Seed {seeds}.") for make, found in charts if found]


def _rates(
    folder: pathlib.Path, data: DataSetResults, cells: dict[str, pathlib.Path]
) -> Iterator[tuple[str, list[dict[str, float]]]]:
    clicks = _clicks(folder, data)
    if clicks is None:
        return
    for method, path in cells.items():
        stored = read_cell(path)
        if stored is not None and len(stored.scores) == data.impressions:
            yield method, calibration(clicks, stored.scores)


def _clicks(folder: pathlib.Path, data: DataSetResults) -> np.ndarray | None:
    """Returns the clicks of the scored impressions, from the newest file.

    If the data has changed, there are several files; only one that has the
    sizes in `data` is used.
    """
    files = sorted(
        folder.glob("impressions-*.npz"), key=lambda path: -path.stat().st_mtime
    )
    for path in files:
        with np.load(path) as stored:
            clicks = stored["clicks"]
        if (len(clicks), int(clicks.sum())) == (data.impressions, data.clicks):
            return clicks
    return None
