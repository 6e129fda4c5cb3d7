"""``muse pipeline``: run, compile and look at the pipeline."""

from __future__ import annotations

import json
import pathlib
import sys
import time
from typing import Annotated

import typer

from tfx_pipeline.cli import output

__all__ = ["app"]

app = typer.Typer(
    name="pipeline",
    help="Run, compile and look at the TFX pipeline.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Config = Annotated[
    pathlib.Path,
    typer.Option("--config", "-c", help="YAML file; see configs/."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Override, e.g. --set model.type=din. Repeatable."
    ),
]


@app.command()
def run(config: Config, overrides: Overrides = None) -> None:
    """Run the pipeline on this machine.

    Unchanged components come from the cache; after a failure or a crash the
    same command continues.

    Example: muse pipeline run --config configs/demo.yaml --set model.type=din
    """
    with output.one_line_errors():
        from tfx_pipeline import config as config_lib

        loaded = config_lib.load_config(config, overrides or ())
        from tfx_pipeline import runner

        start = time.monotonic()
        runner.run(loaded, output.Reporter())
        sys.stderr.write(
            f"Pipeline {loaded.name} finished in "
            f"{time.monotonic() - start:.0f} s. "
            f"Served model: {loaded.push_dir}. Log: {loaded.log_path}\n"
        )


@app.command(name="compile")
def compile_(
    config: Config,
    out: Annotated[
        pathlib.Path, typer.Option(help="JSON file to write.")
    ] = pathlib.Path("pipeline.json"),
    overrides: Overrides = None,
) -> None:
    """Write the pipeline's intermediate representation, for other runners.

    Example: muse pipeline compile --config configs/demo.yaml --out dag.json
    """
    with output.one_line_errors():
        from google.protobuf import json_format

        from tfx_pipeline import config as config_lib

        loaded = config_lib.load_config(config, overrides or ())
        from tfx_pipeline import runner
        from tfx_pipeline.tfx_internals import compiler

        graph = compiler.Compiler().compile(runner.compile_pipeline(loaded))
        output.write_text(out, json_format.MessageToJson(graph) + "\n")
        sys.stderr.write(f"{len(graph.nodes)} nodes written to {out}\n")


@app.command()
def status(
    config: Config,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Show the last execution of every component.

    Example: muse pipeline status --config configs/demo.yaml
    """
    with output.one_line_errors():
        from tfx_pipeline import config as config_lib

        loaded = config_lib.load_config(config, overrides or ())
        from tfx_pipeline import lineage

        rows = lineage.last_executions(loaded)
        if as_json:
            sys.stdout.write(json.dumps(rows, indent=2) + "\n")
            return
        for row in rows:
            sys.stdout.write(
                f"{row['component']:<26} {row['state']:<10} "
                f"{row['finished']:<20} {row['output']}\n"
            )
