"""``muse report``: a pipeline's runs, or a comparison, as one HTML page."""

from __future__ import annotations

import pathlib
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from muse_tools.cli import output
from muse_tools.cli.option_values import SetOption
from serving.files import dumps

if TYPE_CHECKING:
    from muse_tools.report import Summary
    from muse_tools.report.comparison_page import ComparisonSummary

__all__ = ["report"]


def report(
    run: Annotated[
        pathlib.Path | None,
        typer.Argument(
            help="YAML file of a pipeline; or an output folder of muse "
            "compare, or its results.json.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        pathlib.Path | None,
        typer.Option("--config", "-c", help="The same as RUN."),
    ] = None,
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
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the numbers as JSON.")
    ] = False,
) -> None:
    """Write a self-contained page about a pipeline's newest models.

    Or about a comparison of methods; or about both, with --compare.

    Example: muse report configs/demo.yaml --out report.html
    """
    if (run is None) == (config is None):
        raise typer.BadParameter("give one RUN (or --config, not both).")
    with output.one_line_errors():
        given = run or config or pathlib.Path()
        summary = _written(given, compare, out, overrides or [])
        if as_json:
            sys.stdout.write(dumps(summary.found, indent=2) + "\n")
        else:
            sys.stdout.write("\n".join([*summary.lines(), f"{out}", ""]))


def _written(
    run: pathlib.Path,
    compare: pathlib.Path | None,
    out: pathlib.Path,
    overrides: list[str],
) -> Summary | ComparisonSummary:
    """Writes the page for whatever `run` is.

    Args:
        run: as given.
        compare: a comparison to show on a pipeline's page, or None.
        out: HTML file.
        overrides: of the pipeline's configuration.

    Raises:
        DataError: `run` or `compare` is not what it should be.
        ConfigError: the YAML file is no configuration of a pipeline.
    """
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
    from tfx_pipeline import config as config_lib

    loaded = config_lib.load_config(run, overrides)
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
