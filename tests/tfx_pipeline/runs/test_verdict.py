"""What is said of a model at the end of a run."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import pytest

from tfx_pipeline.runs import lineage, verdict

pytestmark = pytest.mark.tf

GOOD = {
    "gauc": 0.602,
    "gauc_lower": 0.593,
    "gauc_upper": 0.611,
    "baseline_gauc": None,
    "refused": "",
}


@pytest.fixture
def run(tmp_path):
    """A model that was blessed twice and pushed."""
    version = tmp_path / "serving" / "muse" / "17"
    version.mkdir(parents=True)
    return lineage.ModelRun(
        model_type="muse",
        settings={},
        model_dir=pathlib.Path("model"),
        run_dir=pathlib.Path("run"),
        evaluation_dir=None,
        evaluation=GOOD,
        infra_blessing_dir=tmp_path,
        infra_blessed=True,
        pushed_to=version,
        pushed_before=False,
    )


def said(run, **values):
    return str(verdict.of_model(dataclasses.replace(run, **values)))


def test_a_pushed_model(run):
    number = "GAUC 0.6020 [0.5930, 0.6110]; "
    assert said(run) == f"MUSE {number}pushed to {run.pushed_to}"
    assert said(run, pushed_before=True, model_type="din") == (
        f"DIN {number}pushed before, to {run.pushed_to}; nothing is new"
    )


def test_labels_have_their_declared_names(run):
    opened = {**GOOD, "label": "opened", "labels": {}}
    line = said(run, evaluation=opened)
    assert line.startswith(
        "MUSE GAUC of opened 0.6020 [0.5930, 0.6110]; pushed"
    )
    order = {"gauc": 0.7, "gauc_lower": 0.6, "gauc_upper": 0.8}
    labels = {"order": order, "return": dict.fromkeys(order)}
    several = {**GOOD, "label": "click", "labels": labels}
    assert said(run, evaluation=several).startswith(
        "MUSE GAUC of click 0.6020 [0.5930, 0.6110], of order 0.7000 [0.6000, "
        "0.8000], of return unknown; pushed"
    )
    assert (
        verdict.of_model(dataclasses.replace(run, evaluation=several)).labels
        == labels
    )


def test_a_refused_model(run):
    refused = {**GOOD, "refused": "below evaluator.min_gauc 0.9"}
    for before in (False, True):
        line = said(
            run, evaluation=refused, pushed_to=None, pushed_before=before
        )
        assert line == (
            "MUSE GAUC 0.6020 [0.5930, 0.6110]; not pushed: below "
            "evaluator.min_gauc 0.9"
        )


def test_a_model_that_is_wrong_in_a_server(run, tmp_path):
    (tmp_path / "report.json").write_text(
        json.dumps({"verdict": "largest difference 3.00e-01, allowed 1e-04"})
    )
    line = said(run, infra_blessed=False, pushed_to=None)
    assert line.endswith(
        "; not pushed: not right in a server: largest difference 3.00e-01, "
        "allowed 1e-04"
    )


def test_what_did_not_happen_is_no_success(run, tmp_path):
    gone = tmp_path / "gone"
    for values, expected in (
        ({"evaluation": None, "pushed_to": None}, "not evaluated"),
        ({"infra_blessing_dir": None, "pushed_to": None}, "not tried in a"),
        ({"pushed_to": None}, "the push did not finish"),
        ({"pushed_to": gone, "pushed_before": True}, f"{gone}, but it is gone"),
    ):
        line = said(run, **values)
        assert f"; not pushed: {expected}" in line or expected in line
        assert "; not pushed: " in line and "; pushed" not in line


def test_no_gauc(run):
    nothing = dict.fromkeys(GOOD)
    line = said(
        run, evaluation={**nothing, "refused": "no user"}, pushed_to=None
    )
    assert line == "MUSE GAUC unknown; not pushed: no user"
