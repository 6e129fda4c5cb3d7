"""``muse explore``: shows retrieved behaviors in a browser."""

from __future__ import annotations

import pathlib
import sys
from typing import Annotated

import typer

from muse_tools.cli import output
from muse_tools.cli.options import (
    DataOption,
    HostOption,
    ModelPathOption,
    Split,
    SplitOption,
)

_DEMO = pathlib.Path("demo_output")


def explore(
    model_base_path: ModelPathOption = _DEMO / "serving/muse",
    data: DataOption = _DEMO / "data",
    split: SplitOption = Split.TEST,
    host: HostOption = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)
    ] = 8700,
) -> None:
    """Explore which behaviors the search found for a user and a candidate.

    Serves a page until Ctrl-C. It shows the retrieved behaviors with
    similarities, tiers and attention, next to those that SIM-hard and SIM-soft
    would have retrieved. It starts once TensorFlow and the model are loaded.

    Example: muse explore --model-base-path demo_output/serving/muse
    """
    with output.one_line_errors():
        from muse_tools.datasets import raw_tables
        from serving.startup import check_port

        tables = raw_tables.RawTables.open(data)
        needed = (f"{split.value}_user_features", f"{split.value}_samples")
        if tables.declared.log:
            needed = (raw_tables.EVENTS, raw_tables.IMPRESSIONS)
        for name in needed:
            tables[name].check()
        names = ("saved_model.pb", "*/saved_model.pb")
        if not any(path for n in names for path in model_base_path.glob(n)):
            raise RuntimeError(
                f"--model-base-path: {model_base_path} holds no model. "
                "Expected: VERSION/saved_model.pb, as `muse demo` or `muse "
                "pipeline run` push it."
            )
        check_port(host, port, "--port")
        sys.stderr.write("Loading TensorFlow and the model …\n")
        from muse_tools import explore as explore_lib
        from muse_tools.explore.app import serve_until_signal

        explorer = explore_lib.Explorer(
            explore_lib.ExplainedModel(model_base_path),
            explore_lib.ExplorerData(data, split.value),
        )

        def announce(app: explore_lib.ExplorerApp) -> None:
            output.write_lines([f"Explorer: {app.url}", "Ctrl-C stops."])

        serve_until_signal(
            explore_lib.ExplorerApp(explorer, host, port), announce
        )
