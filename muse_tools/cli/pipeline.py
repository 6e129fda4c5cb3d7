"""``muse pipeline``: runs, compiles and inspects the pipeline."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
import time
from typing import Annotated

import typer

from muse_tools.cli import configuration, output
from muse_tools.cli.options import ConfigOption, JsonOption, SetOption
from serving.files import write_text

app = output.group("pipeline", "Run, compile and look at the TFX pipeline.")


@app.command()
def run(
    config: ConfigOption,
    overrides: SetOption = None,
    fail_unless_pushed: Annotated[
        bool,
        typer.Option(
            "--fail-unless-pushed",
            help="Exit code 1 if a model is not pushed, for any reason.",
        ),
    ] = False,
    print_config: Annotated[
        bool,
        typer.Option(
            "--print-config",
            help="Print the effective configuration, commented, and stop.",
        ),
    ] = False,
) -> None:
    """Run the pipeline on this machine.

    Takes minutes with the demo's data, hours with millions of impressions.

    Unchanged components come from the cache, so after a failure or a crash the
    same command continues. The last lines show the metrics of the models, and
    where they were pushed or why they were not.

    Example: muse pipeline run --config configs/demo.yaml --set model.type=din
    """
    with output.one_line_errors():
        if print_config:
            loaded = configuration.load(config, overrides)
            sys.stdout.write(configuration.as_yaml(loaded))
            return
        loaded = configuration.load(config, overrides)
        configuration.check_tables(loaded)
        from tfx_pipeline.runs import runner, verdict

        start = time.monotonic()
        runner.run(loaded, output.Reporter())
        sys.stderr.write(
            f"Pipeline {loaded.name} finished in "
            f"{time.monotonic() - start:.0f} s. Log: {loaded.log_path}\n"
        )
        found = verdict.verdicts(loaded, loaded.model.type)
        output.write_lines(list(map(str, found)))
        if fail_unless_pushed and not all(said.pushed_to for said in found):
            raise typer.Exit(1)


@app.command()
def template() -> None:
    """Print a configuration with every key, its default and its meaning.

    Example: muse pipeline template > pipeline.yaml
    """
    sys.stdout.write(configuration.as_yaml())


@app.command(name="compile")
def compile_(
    config: ConfigOption,
    out: Annotated[
        pathlib.Path, typer.Option(help="JSON file to write.", dir_okay=False)
    ] = pathlib.Path("pipeline.json"),
    overrides: SetOption = None,
) -> None:
    """Write the pipeline's intermediate representation, for other runners.

    Example: muse pipeline compile --config configs/demo.yaml --out dag.json
    """
    with output.one_line_errors():
        loaded = configuration.load(config, overrides)
        configuration.check_tables(loaded)
        from google.protobuf import json_format

        from tfx_pipeline.runs import runner
        from tfx_pipeline.tfx_internals import compiler

        graph = compiler.Compiler().compile(runner.compile_pipeline(loaded))
        write_text(out, json_format.MessageToJson(graph) + "\n")
        sys.stderr.write(f"{len(graph.nodes)} nodes written to {out}\n")


@app.command()
def status(
    config: ConfigOption,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the last execution of every component and the verdict on models.

    Example: muse pipeline status --config configs/demo.yaml
    """
    with output.one_line_errors():
        loaded = configuration.load(config, overrides)
        from tfx_pipeline.runs import lineage, verdict

        rows = lineage.last_executions(loaded)
        found = verdict.verdicts(loaded)
        if as_json:
            models = [
                {**dataclasses.asdict(said), "verdict": str(said)}
                for said in found
            ]
            output.write_json({"components": rows, "models": models})
            return
        lines = [
            f"{row['component']:<26} {row['state']:<10} "
            f"{row['finished']:<20} {row['output']}"
            for row in rows
        ]
        if any(row["state"] == "FAILED" for row in rows):
            lines.append(f"Why one failed: {loaded.log_path}")
        output.write_lines([*lines, *map(str, found)])
