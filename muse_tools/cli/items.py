"""``muse items``: sends fresh items to a running server."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from muse_tools.cli import output
from muse_tools.cli.feature_options import SchemaOption
from muse_tools.cli.options import Connection, JsonOption, grouped

if TYPE_CHECKING:
    from serving.client import FreshItems, MuseClient, PushReport

app = output.group("items", "Add items to a running server, or replace them.")


@app.callback()
def items() -> None:
    """Add items to a running server, or replace them."""


@app.command()
@grouped
def push(
    file: Annotated[
        pathlib.Path,
        typer.Argument(
            help="Parquet file with item_id, embedding and, if known, the "
            "model's item features by name, or with the columns of the raw "
            "tables. If an id has several rows, the last one is used."
        ),
    ],
    connection: Connection,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Keep running: send the items again when the file changes, "
            "another version is served or the server was restarted.",
        ),
    ] = False,
    poll: Annotated[
        float,
        typer.Option(help="Seconds between two checks of --watch.", min=0.05),
    ] = 0.5,
    schema: SchemaOption = "",
    as_json: JsonOption = False,
) -> None:
    """Send the items of a file to a running server.

    The server ranks them from then on. Rejected rows are written with their
    reasons to <name>.rejected.parquet beside the file. A server forgets fresh
    items when it stops or loads another version: run this with --watch for
    each server. The time grows with the rows of the file.

    Example: muse items push fresh.parquet --watch
    """
    with output.one_line_errors():
        from schemas import ranking_schema
        from serving import client

        declared = ranking_schema.named(schema) if schema else None
        fresh = client.FreshItems(file)
        with connection.opened(declared) as opened:
            if watch:
                _watch(fresh, opened, poll, as_json)
            else:
                _print(fresh.push(opened), as_json)


def _watch(
    fresh: FreshItems, opened: MuseClient, poll: float, as_json: bool
) -> None:
    """Sends the items whenever they are missing, until interrupted."""
    last = ""

    def complain(error: Exception) -> None:
        nonlocal last
        text = " ".join(str(error).split())
        if text != last:
            sys.stderr.write(f"error: {text}\n")
            sys.stderr.flush()
        last = text

    try:
        for report in fresh.follow(opened, poll=poll, on_error=complain):
            _print(report, as_json)
            last = ""
    except KeyboardInterrupt:
        return


def _print(report: PushReport, as_json: bool) -> None:
    if as_json:
        output.write_json(dataclasses.asdict(report), indent=None)
        return
    text = (
        f"version {report.version}: {report.items} items, "
        f"{report.stored} stored, "
        f"{report.items - report.stored} there before; "
        f"{report.used} of {report.capacity} slots used"
    )
    if report.superseded:
        text += f"; {report.superseded} rows superseded"
    for reason, count in report.rejected.items():
        text += f"; {count} rejected ({reason})"
    output.write_lines([text])
