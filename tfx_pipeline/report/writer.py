"""Writes a report: the page, and its numbers as JSON."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable

from tfx_pipeline import config as config_lib
from tfx_pipeline.cli import output
from tfx_pipeline.report import page
from tfx_pipeline.report.contents import Interval, Report, to_json_values

__all__ = ["Summary", "write_files", "write_report"]


@dataclasses.dataclass(frozen=True)
class Summary:
    """The headline of a report.

    Attributes:
        gauc: with its interval, by model.
        difference: paired MUSE − DIN, or None.
        verdict: the result in words.
        page: the HTML file.
        numbers: the JSON file.
    """

    gauc: dict[str, Interval]
    difference: Interval | None
    verdict: str
    page: pathlib.Path
    numbers: pathlib.Path

    def lines(self) -> list[str]:
        """Returns the headline for a terminal."""
        return [
            *(
                f"GAUC {name.upper():<5} {one.value:.4f}  "
                f"(95 % interval {one.low:.4f} to {one.high:.4f})"
                for name, one in self.gauc.items()
            ),
            self.verdict,
        ]


def write_report(
    config: config_lib.PipelineConfig,
    out_path: pathlib.Path,
    report_progress: Callable[[str], None],
) -> Summary:
    """Writes ``out_path`` and, beside it, the same numbers as JSON.

    The scores of the eval split are kept beside them, so that a second report
    of the same models is quick.

    Args:
        config: a pipeline that has run.
        out_path: HTML file to write, replaced at once.
        report_progress: told about the work.

    Returns:
        The headline.

    Raises:
        DataError: the pipeline has not trained a model.
    """
    from tfx_pipeline.report import collect

    out_path = pathlib.Path(out_path)
    cache = out_path.with_name(f"{out_path.stem}_scores.npz")
    return write_files(
        collect.collect(config, cache, report_progress), out_path
    )


def write_files(report: Report, out_path: pathlib.Path) -> Summary:
    """Writes the two files of a report."""
    numbers = out_path.with_suffix(".json")
    output.write_text(
        numbers,
        json.dumps(
            to_json_values(report),
            indent=2,
            ensure_ascii=False,
            allow_nan=False,
        )
        + "\n",
    )
    output.write_text(out_path, page.render(report))
    return Summary(
        gauc={model.name: model.gauc for model in report.models},
        difference=report.difference,
        verdict=page.verdict(report),
        page=out_path,
        numbers=numbers,
    )
