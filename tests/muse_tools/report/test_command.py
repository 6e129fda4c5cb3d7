"""`muse report`, as a person types it."""

from __future__ import annotations

import json
import pathlib

import pytest
import typer
from typer.testing import CliRunner

from muse_tools.cli.report import report
from muse_tools.compare.results import Results

ROOT = pathlib.Path(__file__).resolve().parents[3]
QUICK = ROOT / "docs" / "results" / "compare_quick.json"


@pytest.fixture
def muse(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command()(report)

    def invoke(*arguments):
        return CliRunner().invoke(app, [str(a) for a in arguments])

    return invoke


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("of", ["folder", "file"])
def test_page_of_a_comparison(muse, tmp_path, of):
    folder = tmp_path / "compare_output"
    stored = write(folder / "results.json", QUICK.read_text())
    given = {"folder": folder, "file": stored}[of]
    # Beside its results: these are not touched.
    done = muse(given, "--out", folder / "results.html")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    (data,) = json.loads(QUICK.read_text())["data_sets"].values()
    best, name = max(
        (row["gauc"]["value"], row["name"]) for row in data["tables"][0]["rows"]
    )
    expected = f"Highest GAUC of 6 methods: {name} {best:.4f}, "
    assert lines[0].startswith(expected)
    assert lines[-1] == str(folder / "results.html")
    assert stored.read_text() == QUICK.read_text()
    assert sorted(path.name for path in folder.iterdir()) == [
        "results.html",
        "results.json",
    ]
    page = (folder / "results.html").read_text()
    assert "<h1>Comparison: complete_journey_quick</h1>" in page


def test_its_numbers_as_json(muse):
    done = muse(QUICK, "--json")
    printed, stored = json.loads(done.stdout), json.loads(QUICK.read_text())
    assert printed["data_sets"].keys() == stored["data_sets"].keys()
    (one,), (other,) = (
        found["data_sets"].values() for found in (printed, stored)
    )
    of_code = Results.model_validate(stored).model_dump(mode="json")
    (whole,) = of_code["data_sets"].values()
    assert one["tables"] == whole["tables"]
    assert one["claims"] == other["claims"]


def test_runs_that_are_none(muse, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "unfinished" / "cells").mkdir(parents=True)
    write(tmp_path / "pipeline" / "metadata.sqlite", "")
    later = json.loads(QUICK.read_text()) | {"schema_version": 2}
    for run, expected in (
        ("nowhere", "nowhere does not exist"),
        ("nowhere.yaml", "nowhere.yaml does not exist"),
        ("empty", "give the YAML file of a pipeline, or an output folder"),
        ("unfinished", "the comparison has not finished"),
        ("pipeline", "for a pipeline, give its YAML file"),
        (write(tmp_path / "a.html", ""), "neither a folder nor"),
        (write(tmp_path / "a.json", "{"), "no results file of `muse compare`"),
        (write(tmp_path / "b.json", "{}"), "schema_version: Field required"),
        (
            write(tmp_path / "c.json", json.dumps(later)),
            "its schema_version is 2",
        ),
        (ROOT / "configs" / "compare.yaml", "configures a comparison"),
        (
            write(tmp_path / "d.yaml", "nam: x"),
            "nam: there is no such key; did you mean name?",
        ),
        (write(tmp_path / "e.yaml", "a: ["), "not valid YAML"),
    ):
        done = muse(run)
        assert done.exit_code == 1, run
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ") and expected in line, line
    assert not (tmp_path / "report.html").exists()


def test_wrong_usage(muse, tmp_path):
    demo = ROOT / "configs" / "demo.yaml"
    assert muse().exit_code == 2
    stored = write(tmp_path / "results.json", QUICK.read_text())
    done = muse(stored, "--set", "name=x")
    assert done.exit_code == 2 and "--set and --compare go with" in done.stderr
    done = muse(demo, "--compare", stored, "--out", tmp_path / "results.html")
    assert done.exit_code == 1 and "choose another name" in done.stderr
    done = muse(demo, "--compare", tmp_path / "nowhere")
    assert done.exit_code == 1 and "nowhere does not exist" in done.stderr


@pytest.mark.tf
def test_a_pipeline_and_its_comparison(muse, tmp_path, monkeypatch):
    from muse_tools.report import collect
    from tests.muse_tools.report.test_report import FOUND

    monkeypatch.setattr(
        collect, "collect", lambda config, report: {**FOUND, "a": config.name}
    )
    config = write(
        tmp_path / "shop.yaml",
        "name: shop\noutput_dir: out\ndata: {raw_dir: x}\n",
    )
    done = muse(
        config,
        "--set",
        "name=market",
        "--compare",
        QUICK,
        "--out",
        "p",
    )
    assert done.exit_code == 0, done.output
    assert "Claims of the paper:" in done.stdout
    page = (tmp_path / "p").read_text()
    assert "Comparison of the methods: complete_journey_quick" in page
    assert "MUSE ranks better than DIN" in page
    found = json.loads((tmp_path / "p.json").read_text())
    assert found["a"] == "market"
    assert found["comparison"]["name"] == "complete_journey_quick"


@pytest.mark.tf
def test_a_pipeline_that_trained_nothing(muse, tmp_path, monkeypatch):
    from tfx_pipeline.runs import lineage

    config = write(
        tmp_path / "shop.yaml",
        "name: shop\noutput_dir: out\ndata: {raw_dir: x}\n",
    )
    done = muse(config)
    assert done.exit_code == 1 and "the pipeline has not run" in done.stderr
    monkeypatch.setattr(lineage, "model_runs", lambda config: {})
    done = muse(config)
    assert done.exit_code == 1 and "has not trained a model" in done.stderr
