"""The tree of ``muse`` commands."""

from __future__ import annotations

import typer

from muse_tools.cli import (
    bench,
    compare,
    data,
    demo,
    explore,
    items,
    pipeline,
    rank,
    report,
    serve,
    service,
    store,
)

__all__ = ["app"]

app = typer.Typer(
    name="muse",
    help=(
        "Lifelong user interest ranking with multimodal search.\n\n"
        "Exit codes: 0 fine, 1 the command failed, 2 wrong usage."
    ),
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(data.app)
app.add_typer(pipeline.app)
app.add_typer(items.app)
app.add_typer(store.app)
app.command()(serve.serve)
app.command()(service.service)
app.command()(rank.rank)
app.command()(report.report)
app.command()(explore.explore)
app.command()(compare.compare)
app.command()(bench.bench)
app.command()(demo.demo)
