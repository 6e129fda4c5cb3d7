"""`muse pipeline`, as a person types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import typer.testing
import yaml

from muse_tools.cli import pipeline as cli
from tests.tfx_pipeline import metadata

pytestmark = pytest.mark.tf


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    from muse_tools.datasets import synth

    root = tmp_path_factory.mktemp("data")
    synth.generate(
        root,
        synth.Options(
            users=12, items=100, history=5, candidates=3, search_events=0
        ),
    )
    return root


@pytest.fixture
def raw(made, tmp_path):
    """A copy of the tables that a test may spoil."""
    folder = tmp_path / "tables"
    folder.mkdir()
    for path in (made / "raw").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture
def config(tmp_path, raw):
    path = tmp_path / "pipeline.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "name": "shop",
                "output_dir": str(tmp_path / "output"),
                "data": {"raw_dir": str(raw)},
            }
        )
    )
    return path


def muse(*arguments):
    runner = typer.testing.CliRunner()
    return runner.invoke(cli.app, [str(argument) for argument in arguments])


def one_line_error(result):
    """Returns the line that tells the error; it is the last, and only one."""
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert errors == lines[-1:], result.stderr
    assert "Traceback" not in result.stderr
    return errors[0]


def test_missing_configuration_is_wrong_usage(tmp_path):
    done = muse("run", "--config", tmp_path / "no.yaml")
    assert done.exit_code == 2 and "no.yaml' does not exist" in done.stderr


def test_a_deleted_column_stops_the_run_and_is_named(config, raw, tmp_path):
    path = raw / "test_user_features.parquet"
    pq.write_table(pq.read_table(path).drop(["130_3"]), path)
    line = one_line_error(muse("run", "--config", config))
    assert "test_user_features" in line
    assert "130_3 (user_profile_3)" in line
    assert "RequestExampleGen failed" in line
    log = tmp_path / "output" / "logs" / "shop.log"
    assert str(log) in line
    assert "MISSING_COLUMN" in log.read_text()
    states = metadata.states(tmp_path / "output" / "metadata.sqlite")
    assert states["RequestExampleGen"] == "FAILED"
    assert "Transform" not in states
    # What ran is told by `status`.
    rows = json.loads(muse("status", "--config", config, "--json").stdout)
    by_name = {row["component"]: row["state"] for row in rows["components"]}
    assert rows["models"] == []
    assert by_name == states
    table = muse("status", "--config", config).stdout
    assert any(
        line.split()[:2] == ["RequestExampleGen", "FAILED"]
        for line in table.splitlines()
    )


def test_no_tables_is_one_line(config, raw):
    for path in raw.iterdir():
        path.unlink()
    line = one_line_error(muse("run", "--config", config))
    assert "NO_TABLES" in line and str(raw) in line


@pytest.mark.parametrize("command", ["run", "compile"])
@pytest.mark.parametrize(
    ("overrides", "code"),
    [
        (["data.raw_dir=nowhere"], "data.raw_dir: expected a folder"),
        (["item_embeddings=learned"], "MISSING_TABLE"),
    ],
)
def test_wrong_data_are_found_before_tensorflow_is_loaded(
    config, command, overrides, code
):
    program = (
        "import sys\n"
        "from muse_tools.cli import main\n"
        "try:\n    main.run()\n"
        "finally:\n    print({'tensorflow', 'tfx'} & set(sys.modules))"
    )
    options = [part for text in overrides for part in ("--set", text)]
    done = subprocess.run(
        [sys.executable, "-c", program, "pipeline", command]
        + ["--config", str(config), *options],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and code in line
    assert done.stdout == "set()\n"


def test_commands_choose_their_backend_themselves(tmp_path):
    """Whatever the environment and keras.json say, here and in children."""
    keras = tmp_path / ".keras"
    keras.mkdir()
    (keras / "keras.json").write_text(json.dumps({"backend": "torch"}))
    program = (
        "import subprocess, sys\n"
        "from muse_tools.cli import main\n"
        "try:\n    main.run()\n"
        "finally:\n"
        "    asked = 'import keras; print(keras.backend.backend())'\n"
        "    subprocess.run([sys.executable, '-c', asked], check=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "--help"],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "KERAS_BACKEND": "jax",
            "KERAS_HOME": str(keras),
            "HOME": str(tmp_path),
        },
    )
    assert done.returncode == 0, done.stderr
    assert "tensorflow" in done.stdout.splitlines()


def test_status_before_any_run_says_what_to_do(config):
    line = one_line_error(muse("status", "--config", config))
    assert "has not run" in line and "muse pipeline run" in line


def test_compiled_pipeline_has_every_component(config, tmp_path):
    out = tmp_path / "ir" / "shop.json"
    result = muse(
        "compile",
        "--config",
        config,
        "--out",
        out,
        "--set",
        "model.type=din",
    )
    assert result.exit_code == 0, result.stderr
    graph = json.loads(out.read_text())
    assert graph["pipelineInfo"]["id"] == "shop"
    nodes = {
        node["pipelineNode"]["nodeInfo"]["id"]: node["pipelineNode"]
        for node in graph["nodes"]
    }
    assert set(nodes) == {
        "RequestExampleGen",
        "ItemTableGen",
        "StatisticsGen",
        "ImportSchemaGen",
        "StrictExampleValidator",
        "Transform",
        "RankerTrainer",
        "latest_blessed_model",
        "Evaluator",
        "ServingValidator",
        "AtomicPusher",
        "MatchingGen",
        "MatchingServingValidator",
        "MatchingPusher",
    }
    # Candidates do not depend on the ranker.
    assert set(nodes["MatchingGen"]["upstreamNodes"]) == {
        "RequestExampleGen",
        "ItemTableGen",
    }
    # An anomaly stops the run before Transform.
    assert "StrictExampleValidator" in nodes["Transform"]["upstreamNodes"]
    # Both blessings come before the push.
    assert {"Evaluator", "ServingValidator"} <= set(
        nodes["AtomicPusher"]["upstreamNodes"]
    )
    assert '"din"' in json.dumps(nodes["RankerTrainer"]["parameters"]).replace(
        '\\"', '"'
    )
    executors = json.dumps(graph["deploymentConfig"])
    assert "tfx_pipeline.components.atomic_pusher.Executor" in executors
    assert not (tmp_path / "output" / "metadata.sqlite").exists()
