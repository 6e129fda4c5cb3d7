"""``muse pipeline``: runs, compiles and inspects the pipeline."""

from __future__ import annotations

import dataclasses
import enum
import os
import pathlib
import sys
import time
from typing import Annotated

import typer

from muse_tools.cli import configuration, output
from muse_tools.cli.options import ConfigOption, JsonOption, SetOption
from serving.files import write_text
from tfx_pipeline.training import workers as training_workers

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
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Local processes that train the ranker together, instead of "
            "trainer.workers.",
        ),
    ] = None,
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

    In a pod of a training job (TF_CONFIG), the chief runs the pipeline; the
    other workers only train with it.

    Example: muse pipeline run --config configs/demo.yaml --set trainer.epochs=2
    """
    with output.one_line_errors():
        if workers:
            overrides = [*(overrides or []), f"trainer.workers={workers}"]
        if print_config:
            loaded = configuration.load(config, overrides)
            sys.stdout.write(configuration.as_yaml(loaded))
            return
        loaded = configuration.load(config, overrides)
        cluster = training_workers.cluster(os.environ)
        if cluster and not training_workers.is_chief(cluster):
            training_workers.follow(loaded.root / "checkpoints", cluster)
            return
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


class Runner(str, enum.Enum):
    """What a compiled pipeline is for; the value is also that of an option."""

    TFX = "tfx"
    KUBEFLOW = "kubeflow"
    VERTEX = "vertex"
    AIRFLOW = "airflow"


_FILES = {
    Runner.TFX: "pipeline.json",
    Runner.KUBEFLOW: "pipeline.yaml",
    Runner.VERTEX: "pipeline_job.json",
    Runner.AIRFLOW: "pipeline_dag.py",
}


@app.command(name="compile")
def compile_(
    config: ConfigOption,
    runner: Annotated[
        Runner,
        typer.Option(
            help="Orchestrator; tfx: TFX's intermediate representation."
        ),
    ] = Runner.TFX,
    out: Annotated[
        pathlib.Path | None,
        typer.Option(
            help="File to write; default: "
            + ", ".join(
                f"{file} ({name.value})" for name, file in _FILES.items()
            )
            + ".",
            dir_okay=False,
        ),
    ] = None,
    overrides: SetOption = None,
) -> None:
    """Write the pipeline for an orchestrator.

    docs/cluster.md says how to start what is written.

    Example: muse pipeline compile --config configs/demo.yaml --runner airflow
    """
    with output.one_line_errors():
        loaded = configuration.load(config, overrides)
        configuration.check_tables(loaded)
        out = out or pathlib.Path(_FILES[runner])
        if runner is Runner.TFX:
            from google.protobuf import json_format

            from tfx_pipeline.runs.runner import compile_pipeline
            from tfx_pipeline.tfx_internals import compiler

            graph = compiler.Compiler().compile(compile_pipeline(loaded))
            write_text(out, json_format.MessageToJson(graph) + "\n")
            sys.stderr.write(f"{len(graph.nodes)} nodes written to {out}\n")
            return
        from tfx_pipeline.runs import engines, steps

        found = steps.compile_steps(loaded)
        write_text(out, engines.RUNNERS[runner.value](loaded, found))
        sys.stderr.write(f"{len(found) + 1} steps written to {out}\n")


_RunId = Annotated[
    str, typer.Option("--run-id", help="Id of the run in the orchestrator.")
]
_Secrets = Annotated[
    list[str] | None,
    typer.Option(
        "--secret",
        help="NAME=projects/P/secrets/S/versions/V: environment variable to "
        "take from Secret Manager. May be repeated.",
    ),
]


@app.command()
def prepare(
    settings: Annotated[
        str, typer.Option(help="The configuration, as JSON or YAML.")
    ],
    run_id: _RunId,
    secrets: _Secrets = None,
) -> None:
    """Begin a run whose steps an orchestrator starts.

    `muse pipeline compile` writes this command into its file.

    Example: muse pipeline prepare --settings "$(cat pipeline.yaml)" --run-id 7
    """
    with output.one_line_errors():
        loaded = configuration.parse(settings)
        configuration.check_tables(loaded)
        from tfx_pipeline.runs import steps

        _read_secrets(secrets)
        steps.prepare(loaded, run_id, output.Reporter())


@app.command()
def step(
    name: Annotated[str, typer.Argument(help="Name of the component.")],
    output_dir: Annotated[
        pathlib.Path, typer.Option(help="The output directory of the run.")
    ],
    run_id: _RunId,
    secrets: _Secrets = None,
) -> None:
    """Run one step of a prepared run.

    A step that has finished in the run is not repeated; a failed or killed one
    continues.

    Example: muse pipeline step Transform --output-dir output --run-id 7
    """
    with output.one_line_errors():
        from tfx_pipeline.runs import steps

        _read_secrets(secrets)
        steps.run_step(output_dir.absolute(), run_id, name, output.Reporter())


def _read_secrets(references: list[str] | None) -> None:
    """Sets environment variables to values in Google's Secret Manager."""
    if not references:
        return
    from google.cloud import secretmanager

    client = secretmanager.SecretManagerServiceClient()
    for reference in references:
        name, _, version = reference.partition("=")
        found = client.access_secret_version(name=version)
        os.environ[name] = found.payload.data.decode()


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
