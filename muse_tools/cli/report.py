"""``muse report``: a pipeline's runs, or a comparison, as one HTML page."""

from __future__ import annotations

import pathlib
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from muse_tools.cli import output
from muse_tools.cli.configuration import load
from muse_tools.cli.options import JsonOption, SetOption
from muse_tools.datasets.errors import DataError
from serving.files import dumps

if TYPE_CHECKING:
    from muse_tools.report import Summary
    from muse_tools.report.comparison_page import ComparisonSummary


def report(
    run: Annotated[
        pathlib.Path,
        typer.Argument(
            help="YAML file of a pipeline; or an output folder of muse "
            "compare, or its results.json.",
            show_default=False,
        ),
    ],
    compare: Annotated[
        pathlib.Path | None,
        typer.Option(
            help="Output folder of muse compare, or its results.json, to show "
            "on a pipeline's page."
        ),
    ] = None,
    out: Annotated[
        pathlib.Path, typer.Option(help="HTML file to write.", dir_okay=False)
    ] = pathlib.Path("report.html"),
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a self-contained page about a pipeline's newest models.

    Or about a comparison of methods; or about both, with --compare. A
    pipeline's page takes as long as loading TensorFlow and its models.

    Examples: muse report configs/demo.yaml --out report.html;
    muse report compare_output/quick --out comparison.html
    """
    with output.one_line_errors():
        if not run.exists():
            raise DataError(
                "NO_SUCH_RUN",
                f"{run} does not exist.",
                "give the YAML file of a pipeline, or an output folder of "
                "`muse compare` or its results.json.",
            )
        summary = _written(run, compare, out, overrides or [])
        if as_json:
            sys.stdout.write(dumps(summary.found, indent=2) + "\n")
        else:
            output.write_lines([*summary.lines(), f"{out}"])


def _written(
    run: pathlib.Path,
    compare: pathlib.Path | None,
    out: pathlib.Path,
    overrides: list[str],
) -> Summary | ComparisonSummary:
    from muse_tools.report import sources

    if sources.is_comparison(run):
        if overrides or compare:
            raise typer.BadParameter(
                "--set and --compare go with a pipeline's YAML file, not with "
                f"a comparison ({run})"
            )
        from muse_tools.report import comparison_page

        path, compared = sources.read_results(run)
        return comparison_page.write(compared, out, path.parent)
    loaded = load(run, overrides)
    results = None
    if compare:
        path, results = sources.read_results(compare)
        if path.resolve() == out.with_suffix(".json").resolve():
            raise ValueError(
                f"--out {out} would write its numbers over {path}: choose "
                "another name"
            )
    from muse_tools import report as report_lib

    return report_lib.write_report(loaded, out, output.Reporter(), results)
