"""The tree of ``muse`` commands."""

from __future__ import annotations

from typing import Annotated

import typer

from muse_keras._version import __version__
from muse_tools.cli import (
    bench,
    compare,
    data,
    demo,
    explore,
    items,
    models,
    output,
    pipeline,
    rank,
    report,
    serve,
    service,
    store,
)

app = typer.Typer(
    name="muse",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        output.write_lines([f"muse {__version__}"])
        raise typer.Exit


@app.callback()
def muse(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and stop.",
            callback=_version,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Lifelong user interest ranking with multimodal search.

    Exit codes: 0 fine, 1 the command failed, 2 wrong usage.
    """


app.add_typer(data.app)
app.add_typer(pipeline.app)
app.add_typer(items.app)
app.add_typer(models.app)
app.add_typer(store.app)
app.command()(serve.serve)
app.command()(service.service)
app.command()(rank.rank)
app.command()(report.report)
app.command()(explore.explore)
app.command()(compare.compare)
app.command()(bench.bench)
app.command()(demo.demo)
