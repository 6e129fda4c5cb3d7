"""A DAG that Airflow runs, over purchases of Complete Journey.

Airflow has an environment of its own, without TFX; the tasks run commands of
this one. One task is killed, and Airflow starts it again.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import sqlite3
import subprocess
import time

import pytest
import typer.testing
import yaml

from muse_tools.datasets import complete_journey
from tests.tfx_pipeline import metadata
from tests.tfx_pipeline.orchestrators import engines
from tests.tfx_pipeline.orchestrators.test_compiled import AFTER

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.tf,
    pytest.mark.once,
    pytest.mark.timeout(900),
]

KILLED = "RankerTrainer"
RUN_ID = "manual__2026-02-01T00:00:00+00:00"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    from tfx_pipeline import config as config_lib

    root = tmp_path_factory.mktemp("airflow")
    complete_journey.generate(
        root / "data",
        complete_journey.Options(
            users=120,
            max_positives_per_user=3,
            max_test_positives_per_user=3,
            search_events=0,
        ),
    )
    settings = {
        "name": "journey",
        "output_dir": str(root / "output"),
        "data": {"raw_dir": str(root / "data")},
        "transform": {"max_history": 50},
        "model": {
            "embedding_dim": 4,
            "k": 5,
            "recent": 5,
            "num_tiers": 4,
            "hidden_units": [8],
        },
        # Long enough to be killed between two checkpoints.
        "trainer": {"epochs": 20, "batch_requests": 8, "checkpoint_steps": 10},
        "evaluator": {"min_gauc": 0.0, "bootstrap_samples": 20},
        "matching": {"enabled": False},
    }
    path = root / "pipeline.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path, config_lib.load_config(path)


def kill(name: str) -> None:
    """Kills the process of a step, and what it has started."""
    for entry in pathlib.Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if {b"step", name.encode()} <= {*words} and b"bash" not in words:
                os.kill(int(entry.name), signal.SIGKILL)
                return
    pytest.fail(f"no process of {name}")


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """Runs the DAG and kills a training; returns Airflow's output."""
    from muse_tools.cli import pipeline as cli

    engines.make()
    path, loaded = config
    home = tmp_path_factory.mktemp("home")
    (home / "dags").mkdir()
    done = typer.testing.CliRunner().invoke(
        cli.app,
        ["compile", "--config", str(path), "--runner", "airflow"]
        + ["--out", str(home / "dags" / "journey.py")],
    )
    assert done.exit_code == 0, done.output
    variables = engines.environment(
        AIRFLOW_HOME=str(home),
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        PYTHONPATH=str(engines.ROOT),
    )
    airflow = str(engines.FOLDER / "bin" / "airflow")
    subprocess.run(
        [airflow, "db", "migrate"],
        env=variables,
        check=True,
        capture_output=True,
    )
    log = home / "run.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            [airflow, "dags", "test", "journey", "2026-02-01"],
            env=variables,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while not list(loaded.root.glob("checkpoints/*/checkpoint")):
            assert process.poll() is None, log.read_text()[-4000:]
            time.sleep(0.05)
        kill(KILLED)
        assert process.wait() == 0, log.read_text()[-4000:]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return log.read_text()


def test_a_model_is_pushed_though_a_task_was_killed(config, run):
    from tfx_pipeline.runs import verdict

    _, loaded = config
    states = metadata.states(loaded.metadata_path)
    steps = {name for name in AFTER if "Matching" not in name} - {"prepare"}
    assert states == dict.fromkeys(steps | {"latest_blessed_model"}, "COMPLETE")
    (said,) = verdict.verdicts(loaded)
    assert said.pushed_to is not None
    assert pathlib.Path(said.pushed_to, "saved_model.pb").is_file()
    # The second attempt of the training continued after the checkpoint.
    assert run.count("UP_FOR_RETRY") >= 1
    text = (loaded.root / "runs" / RUN_ID / f"{KILLED}.log").read_text()
    assert text.count(f"Component {KILLED} is running.") == 2
    assert text.count(f"Component {KILLED} is finished.") == 1
    assert not list(loaded.root.glob("checkpoints/*"))


def test_a_second_run_takes_everything_from_the_cache(config, run):
    """And a step that has finished is not repeated in its run."""
    from tfx_pipeline.runs import steps

    _, loaded = config
    last = metadata.last_execution(loaded.metadata_path)
    lines: list[str] = []
    steps.prepare(loaded, "second", lines.append)
    names = [step.name for step in steps.compile_steps(loaded)]
    for name in [*names, names[-1]]:
        steps.run_step(loaded.root, "second", name, lines.append)
    assert lines[-1] == f"{names[-1]} has finished in this run"
    states = metadata.states(loaded.metadata_path, last)
    assert states == {
        **dict.fromkeys(names, "CACHED"),
        "latest_blessed_model": "COMPLETE",
    }


def test_what_a_killed_attempt_left_is_removed(config, run):
    """Otherwise the next one would write into its folders."""
    from ml_metadata.metadata_store import metadata_store
    from ml_metadata.proto import metadata_store_pb2 as mlmd

    from tfx_pipeline.runs import lineage, steps

    _, loaded = config
    steps.prepare(loaded, "third", print)
    # As it is while a step runs: an execution without outputs, and a file.
    steps.run_step(loaded.root, "third", "ItemTableGen", print)
    store = metadata_store.MetadataStore(lineage.connection(loaded))
    (execution,) = lineage.executions(store, loaded, "third")
    execution.last_known_state = mlmd.Execution.RUNNING
    store.put_executions([execution])
    with sqlite3.connect(loaded.metadata_path) as database:
        database.execute(
            "DELETE FROM Event WHERE execution_id = ?", [execution.id]
        )
    left = loaded.artifacts_dir / "ItemTableGen" / "item_table"
    left = left / str(execution.id) / "half"
    left.mkdir(parents=True)
    steps.run_step(loaded.root, "third", "ItemTableGen", print)
    assert not left.exists()
    (execution,) = lineage.executions(store, loaded, "third")
    assert execution.last_known_state in lineage.DONE


@pytest.mark.parametrize(
    ("run_id", "step", "message"),
    [
        ("never", "Transform", "muse pipeline prepare"),
        ("../x", "Transform", "expected letters"),
        ("..", "Transform", "expected letters"),
        (RUN_ID, "Nothing", "step: expected one of ImportSchemaGen"),
    ],
)
def test_a_wrong_step_is_one_line(config, run, run_id, step, message):
    from schemas.settings_file import ConfigError
    from tfx_pipeline.runs import steps

    _, loaded = config
    with pytest.raises(ConfigError, match="Received: ") as error:
        steps.run_step(loaded.root, run_id, step, print)
    assert message in str(error.value) and "\n" not in str(error.value)
