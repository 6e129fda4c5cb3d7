"""``muse report``: one page about the trained models."""

from __future__ import annotations

import pathlib
import sys
from typing import Annotated

import typer

from tfx_pipeline.cli import output
from tfx_pipeline.cli.pipeline import Config, Overrides

__all__ = ["report"]


def report(
    config: Config,
    out: Annotated[
        pathlib.Path,
        typer.Option(help="HTML file; the numbers go beside it as JSON."),
    ] = pathlib.Path("report.html"),
    overrides: Overrides = None,
) -> None:
    """Write a page about the trained models: results, slices, an example.

    Example: muse report --config configs/demo.yaml --out report.html
    """
    with output.one_line_errors():
        from tfx_pipeline import config as config_lib

        loaded = config_lib.load_config(config, overrides or ())
        tell = output.Reporter()
        tell("Loading TensorFlow and TFX")
        from tfx_pipeline import report as report_lib

        if out.suffix not in (".html", ".htm"):
            raise ValueError(f"--out must end in .html. Received: {str(out)!r}")
        summary = report_lib.write_report(loaded, out, tell)
        sys.stdout.write(
            "\n".join(
                [
                    *summary.lines(),
                    f"Report: {summary.page}",
                    f"Numbers: {summary.numbers}",
                    "",
                ]
            )
        )
