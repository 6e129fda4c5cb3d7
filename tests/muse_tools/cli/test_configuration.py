"""The configuration as people read it: page, template, --print-config."""

from __future__ import annotations

import pathlib

import pytest
import yaml
from typer.testing import CliRunner

from muse_tools.cli import configuration
from muse_tools.cli.commands import app
from tfx_pipeline.config import PipelineConfig, load_config

ROOT = pathlib.Path(__file__).resolve().parents[3]
DEMO = ROOT / "configs" / "demo.yaml"


def test_the_page_is_current():
    page = ROOT / "docs" / "configuration.md"
    assert page.read_text("utf-8") == configuration.as_markdown(), (
        "run: python -m muse_tools.cli.configuration > docs/configuration.md"
    )


def test_every_key_says_what_it_means():
    for entry in configuration.entries():
        assert entry.meaning.endswith((".", "'.")), entry.path


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs").glob("demo*.yaml")), ids=lambda p: p.name
)
def test_what_is_printed_is_the_same_configuration(path):
    loaded = load_config(path, ["trainer.epochs=3", "scl.min_variance=1e-9"])
    text = configuration.as_yaml(loaded)
    assert PipelineConfig.model_validate(yaml.safe_load(text)) == loaded
    assert "# Passes over the training requests." in text
    assert max(map(len, text.splitlines())) < 130


def test_the_template_has_the_defaults():
    done = CliRunner().invoke(app, ["pipeline", "template"])
    values = yaml.safe_load(done.output)
    values["output_dir"] = values["data"]["raw_dir"] = "x"
    least = {"output_dir": "x", "data": {"raw_dir": "x"}}
    made = PipelineConfig.model_validate(values)
    assert made == PipelineConfig.model_validate(least)


def test_print_config_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(
        app,
        ["pipeline", "run", "-c", str(DEMO), "--set", "model.k=7"]
        + ["--print-config"],
    )
    assert done.exit_code == 0, done.output
    assert yaml.safe_load(done.output)["model"]["k"] == 7
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["run", "compile", "status"])
@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("trainer.epoch=2", "trainer.epoch:"),
        ("trainer.epochs=two", "trainer.epochs:"),
        ("trainer=3", "trainer:"),
        ("name.x=3", "is not a section"),
        ("export.user_cache.users=3", "multiple"),
    ],
)
def test_a_wrong_override_is_wrong_usage(command, override, part):
    done = CliRunner().invoke(
        app,
        ["pipeline", command, "-c", str(DEMO), "--set", override],
        env={"COLUMNS": "200"},
    )
    assert done.exit_code == 2
    assert "--set" in done.output and part in done.output


def test_a_wrong_file_is_no_wrong_usage(tmp_path):
    path = tmp_path / "pipeline.yaml"
    path.write_text("output_dir: x\ndata: {raw_dir: x}\nnope: 1\n")
    done = CliRunner().invoke(
        app, ["pipeline", "run", "-c", str(path), "--set", "model.k=7"]
    )
    assert done.exit_code == 1
    assert f"error: {path}: nope:" in done.output
