"""What the trainings of a comparison left: curves and scores.

``results.json`` does not hold them; a page has them if it is made where the
comparison ran.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import numpy as np

from muse_tools.compare.results import DataSetResults
from muse_tools.compare.scores import read_cell
from muse_tools.report import charts
from muse_tools.report.curves import training_curve
from muse_tools.report.scores import calibration
from tfx_pipeline.training.trainer import CURVES_FILE

__all__ = ["pictures"]

_POINTS = 30


def pictures(
    folder: pathlib.Path,
    name: str,
    data: DataSetResults,
    colors: dict[str, int],
) -> list[tuple[str, str]]:
    """Draws training and calibration of the methods' first seed.

    Args:
        folder: output folder of ``muse compare``.
        name: of the data set.
        data: its results.
        colors: number of a method's colour.

    Returns:
        SVG and caption of each picture whose numbers are there.
    """
    cells = dict(_finished(folder, data))
    seed = ", ".join(sorted({str(seed) for _, seed in cells}))
    found = []
    losses = {
        method: training_curve(path / CURVES_FILE, _POINTS)
        for (method, _), path in cells.items()
        if (path / CURVES_FILE).is_file()
    }
    if losses:
        found.append(
            (
                charts.lines(
                    "Training loss of each method over steps",
                    "training step",
                    {
                        method: (curve["steps"], curve["loss"])
                        for method, curve in losses.items()
                    },
                    colors=[colors[method] for method in losses],
                ),
                "Log loss of training batches, averaged over stretches of "
                f"steps; seed {seed}.",
            )
        )
    rates = dict(_rates(folder, name, data, cells))
    if rates:
        found.append(
            (
                charts.calibration(
                    "Observed over predicted click rate of tenths of the "
                    "held-out impressions, with 95 % intervals",
                    "predicted click rate",
                    rates,
                    colors=[colors[method] for method in rates],
                ),
                "Observed over predicted click rate of the held-out "
                "impressions, in tenths by score, with 95 % intervals; on the "
                f"dashed line a prediction is right. Seed {seed}.",
            )
        )
    return found


def _finished(
    folder: pathlib.Path, data: DataSetResults
) -> Iterator[tuple[tuple[str, int], pathlib.Path]]:
    """Gives method, seed and folder of the overall table's first cells."""
    keys = {cell.name: cell.key for cell in data.cells if cell.status == "done"}
    for table in data.tables:
        for row in table.rows if table.name == "overall" else ():
            key = keys.get(f"{row.name}, seed {row.seeds[0]}")
            if key is not None and (folder / "cells" / key).is_dir():
                yield (row.name, row.seeds[0]), folder / "cells" / key


def _rates(
    folder: pathlib.Path,
    name: str,
    data: DataSetResults,
    cells: dict[tuple[str, int], pathlib.Path],
) -> Iterator[tuple[str, list[tuple[float, float, float, float]]]]:
    clicks = _clicks(folder / "data" / name, data)
    if clicks is None:
        return
    for (method, _), path in cells.items():
        stored = read_cell(path)
        if stored is None or len(stored.scores) != data.impressions:
            continue
        yield (
            method,
            [
                (
                    row["predicted"],
                    row["observed"],
                    row["lower"],
                    row["upper"],
                )
                for row in calibration(clicks, stored.scores)
            ],
        )


def _clicks(folder: pathlib.Path, data: DataSetResults) -> np.ndarray | None:
    """Returns the clicks that the cells scored, of the newest file that fits.

    There are several files where the data have changed.
    """
    files = sorted(
        folder.glob("impressions-*.npz"),
        key=lambda path: path.stat().st_mtime,
        reverse=True,
    )
    for path in files:
        with np.load(path) as stored:
            clicks = stored["clicks"]
        if (len(clicks), int(clicks.sum())) == (data.impressions, data.clicks):
            return clicks
    return None
