"""``muse explore``: what the model retrieved, in a browser."""

from __future__ import annotations

import pathlib
import sys
from typing import Annotated

import typer

from muse_tools.cli import output
from muse_tools.cli.listening_options import HostOption
from muse_tools.cli.rank import Split

__all__ = ["explore"]

_DEMO = pathlib.Path("demo_output")


def explore(
    model: Annotated[
        pathlib.Path,
        typer.Option(help="Version of a pushed model, or their folder."),
    ] = _DEMO / "serving/muse",
    data: Annotated[
        pathlib.Path,
        typer.Option(help="Raw data set with users and impressions."),
    ] = _DEMO / "data",
    split: Annotated[
        Split, typer.Option(help="Whose users and impressions.")
    ] = Split.TEST,
    host: HostOption = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)
    ] = 8700,
) -> None:
    """Explore what the search found for a user and a candidate.

    Serves a page until Ctrl-C: the retrieved behaviours with similarities,
    tiers and attention, next to what SIM-hard and SIM-soft would have
    retrieved.

    Example: muse explore --model demo_output/serving/muse
    """
    with output.one_line_errors():
        sys.stderr.write("Loading TensorFlow and the model …\n")
        from muse_tools import explore as explore_lib
        from muse_tools.explore.app import serve_until_signal

        tables = explore_lib.ExplorerData(data, split.value)
        explorer = explore_lib.Explorer(
            explore_lib.ExplainedModel(model), tables
        )

        def announce(app: explore_lib.ExplorerApp) -> None:
            sys.stdout.write(f"Explorer: {app.url}\nCtrl-C stops.\n")
            sys.stdout.flush()

        serve_until_signal(
            explore_lib.ExplorerApp(explorer, host, port), announce
        )
