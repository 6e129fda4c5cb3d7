"""``muse compare``: trains every method of the paper on the same data."""

from __future__ import annotations

import pathlib
import sys
from typing import Annotated

import typer

from muse_tools.cli import output
from muse_tools.cli.options import JsonOption

_CONFIG = (
    pathlib.Path(__file__).resolve().parents[2] / "configs" / "compare.yaml"
)


def compare(
    config: Annotated[
        pathlib.Path | None,
        typer.Option(
            "--config",
            "-c",
            help="YAML file; with --quick by default configs/compare.yaml.",
            show_default=False,
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="The file's section quick: little data, one seed."
        ),
    ] = False,
    out: Annotated[
        str, typer.Option(help="Folder for cells and results.")
    ] = "",
    workers: Annotated[
        int, typer.Option(help="Processes that train at once.", min=1)
    ] = 2,
    as_json: JsonOption = False,
) -> None:
    """Train the grid of methods and print the paper's tables for your data.

    configs/compare.yaml takes about an hour on 2 cores, with --quick about 4
    minutes.

    Finished cells (trainings) are kept: after an interruption, the same command
    continues. It may run several times at once. Failed cells are reported and
    left out.

    Examples: muse compare --config configs/compare.yaml --quick;
    muse compare --config configs/compare_synthetic.yaml --workers 4
    """
    if config is None and not quick:
        raise typer.BadParameter(
            "give --config FILE (configs/compare.yaml trains for about an "
            "hour on 2 cores) or --quick (about 4 minutes)."
        )
    config = config or _CONFIG
    with output.one_line_errors():
        from muse_tools.cli import configuration
        from muse_tools.compare.config import MADE, load_config
        from tfx_pipeline.config import load_config as load_pipeline

        loaded = load_config(config, quick, out)
        for one in loaded.data_sets.values():
            if one.source == "raw":
                pipeline = load_pipeline(one.pipeline, one.overrides)
                for kind in ("", *({*loaded.embeddings} & {*MADE})):
                    configuration.check_tables(pipeline, kind)
        report = output.Reporter()
        report("Loading TensorFlow and TFX")
        from muse_tools.compare import run
        from muse_tools.compare.view import comparison_view
        from muse_tools.pages.markdown import to_markdown

        shown = ["muse compare", f"--config {output.short(config)}"]
        shown += ["--quick"] if quick else []
        results = run.compare(
            loaded,
            report,
            workers=workers,
            quick=quick,
            command=" ".join(shown),
        )
        text = results.model_dump_json(indent=1) if as_json else ""
        text = text or to_markdown(comparison_view(results))
        sys.stdout.write(text.rstrip("\n") + "\n")
        for name in (run.RESULTS_FILE, run.MARKDOWN_FILE):
            report(f"written: {output.short(loaded.root / name)}")
        failed = [
            cell
            for one in results.data_sets.values()
            for cell in one.cells
            if cell.status != "done"
        ]
        if failed:
            raise RuntimeError(
                f"{len(failed)} cells failed, first: {failed[0].name}: "
                f"{failed[0].reason}. The same command tries them again."
            )
