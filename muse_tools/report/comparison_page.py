"""Writes the page of a comparison."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from muse_tools.compare.results import DataSetResults, Results
from muse_tools.report import cells, comparison, templates
from serving.files import write_text

__all__ = ["ComparisonSummary", "render", "shown", "write"]


@dataclasses.dataclass(frozen=True)
class ComparisonSummary:
    """What the page says in a few lines.

    Attributes:
        path: the page.
        results: all its numbers.
    """

    path: pathlib.Path
    results: Results

    @property
    def found(self) -> dict[str, Any]:
        """The numbers as JSON holds them."""
        return self.results.model_dump(mode="json")

    def lines(self) -> list[str]:
        """Returns the headline for a terminal."""
        return comparison.headline(self.results)


def write(
    results: Results, path: pathlib.Path, folder: pathlib.Path | None = None
) -> ComparisonSummary:
    """Writes the page.

    Args:
        results: of ``muse compare``.
        path: HTML file to write.
        folder: where the comparison ran, for its training curves and
            calibration; None: without.
    """
    write_text(path, render(results, folder))
    return ComparisonSummary(path, results)


def render(results: Results, folder: pathlib.Path | None = None) -> str:
    """Returns the page; see `write`."""
    return templates.rendered(
        "comparison_page.html.j2", comparison=shown(results, folder)
    )


def shown(
    results: Results, folder: pathlib.Path | None = None
) -> dict[str, Any]:
    """Returns what the templates show of a comparison; see `write`."""
    return {
        "results": results,
        "headline": comparison.headline(results),
        "facts": comparison.facts(results),
        "rule": comparison.RULE[:1].upper() + comparison.RULE[1:],
        "data_sets": {
            name: comparison.data_set(data, _training(name, data, folder))
            for name, data in results.data_sets.items()
        },
    }


def _training(
    name: str, data: DataSetResults, folder: pathlib.Path | None
) -> list[tuple[str, str]]:
    if folder is None or not (folder / "cells").is_dir():
        return []
    methods = [
        row.name
        for table in data.tables
        if table.name == "overall"
        for row in table.rows
    ]
    colors = dict(zip(methods, comparison.method_colors(methods), strict=True))
    return cells.pictures(folder, name, data, colors)
