"""``muse report``: the runs of a pipeline as one HTML page."""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Annotated

import typer

from tfx_pipeline.cli import output

__all__ = ["report"]


def report(
    config: Annotated[
        pathlib.Path, typer.Option("--config", "-c", help="YAML file.")
    ],
    out: Annotated[
        pathlib.Path, typer.Option(help="HTML file to write.")
    ] = pathlib.Path("report.html"),
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override, as for muse pipeline run."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the numbers as JSON.")
    ] = False,
) -> None:
    """Write a self-contained page about the newest run of every model.

    Example: muse report --config configs/demo.yaml --out report.html
    """
    with output.one_line_errors():
        from tfx_pipeline import config as config_lib

        loaded = config_lib.load_config(config, overrides or ())
        from tfx_pipeline import report as report_lib

        summary = report_lib.write_report(loaded, out, output.Reporter())
        if as_json:
            sys.stdout.write(json.dumps(summary.found, indent=2) + "\n")
        else:
            sys.stdout.write("\n".join([*summary.lines(), f"{out}", ""]))
