"""``muse report``: writes a pipeline's runs or a comparison as an HTML page."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Annotated

import typer

from muse_tools.cli import output
from muse_tools.cli.configuration import load
from muse_tools.cli.options import JsonOption, SetOption
from serving.files import write_text

if TYPE_CHECKING:
    from muse_tools.compare.results import Results


def report(
    run: Annotated[
        pathlib.Path,
        typer.Argument(
            help="YAML file of a pipeline, output folder of muse compare, or "
            "its results.json.",
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

    It can also show a comparison of methods, or both with --compare. A
    pipeline's page takes as long as loading TensorFlow and the models.

    Examples: muse report configs/demo.yaml --out report.html;
    muse report compare_output/quick --out comparison.html
    """
    with output.one_line_errors():
        from muse_tools.report import sources

        if sources.is_comparison(run):
            if overrides or compare:
                raise typer.BadParameter(
                    "--set and --compare go with a pipeline's YAML file, not "
                    f"with a comparison ({run})"
                )
            from muse_tools.compare.view import headline
            from muse_tools.report import comparison_page

            path, results = sources.read_results(run)
            write_text(out, comparison_page.render(results, path.parent))
            found, lines = results.model_dump(mode="json"), headline(results)
        else:
            loaded = load(run, overrides)
            compared = _compared(compare, out) if compare else None
            from muse_tools.report import writer

            found = writer.write_report(
                loaded, out, output.Reporter(), compared
            )
            lines = writer.summary_lines(found)
        if as_json:
            output.write_json(found)
        else:
            output.write_lines([*lines, f"{out}"])


def _compared(compare: pathlib.Path, out: pathlib.Path) -> Results:
    from muse_tools.report import sources

    path, results = sources.read_results(compare)
    if path.resolve() == out.with_suffix(".json").resolve():
        raise ValueError(
            f"--out {out} would write its numbers over {path}: choose "
            "another name"
        )
    return results
