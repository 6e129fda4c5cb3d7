"""TFX's Evaluator with our extractors and metric, on a hand-written model."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib

import numpy as np
import pytest
import tensorflow_model_analysis as tfma
from google.protobuf import json_format
from tfx.dsl.components.base import base_beam_executor
from tfx.types import standard_artifacts

from tests.tfx_pipeline.evaluation import metric_oracles as oracle
from tests.tfx_pipeline.evaluation import toy_evaluation
from tfx_pipeline import config as config_lib
from tfx_pipeline import pipeline
from tfx_pipeline.components import recorded_evaluator
from tfx_pipeline.evaluation import extractors

pytestmark = pytest.mark.tf


@dataclasses.dataclass
class Evaluation:
    result: tfma.EvalResult
    blessed: bool
    folder: pathlib.Path
    said: dict

    def metrics(self, slice_key=()):
        found = self.result.get_metrics_for_slice(slice_key)
        # JSON has no NaN: it comes as text.
        return {
            name: float(value["doubleValue"]) for name, value in found.items()
        }


class World:
    """Models and requests; runs the Evaluator on them."""

    def __init__(self, root: pathlib.Path):
        self.root = root
        self.runs = 0
        self.requests = toy_evaluation.random_requests(np.random.default_rng(6))
        toy_evaluation.write_requests(
            root / "examples" / "Split-eval", self.requests
        )
        for name, upside_down in (("good", False), ("bad", True)):
            toy_evaluation.save_model(
                root / name / "Format-Serving", upside_down
            )

    def evaluate(
        self, candidate, baseline=None, examples="examples", **settings
    ):
        self.runs += 1
        folder = self.root / f"run{self.runs}"
        inputs = {
            "examples": [self.artifact(standard_artifacts.Examples, examples)],
            "model": [self.artifact(standard_artifacts.Model, candidate)],
        }
        inputs["examples"][0].split_names = '["eval"]'
        if baseline:
            inputs["baseline_model"] = [
                self.artifact(standard_artifacts.Model, baseline)
            ]
        evaluation = standard_artifacts.ModelEvaluation()
        evaluation.uri = str(folder / "evaluation")
        blessing = standard_artifacts.ModelBlessing()
        blessing.uri = str(folder / "blessing")
        config = pipeline.eval_config(
            config_lib.EvaluatorConfig(bootstrap_samples=30, **settings)
        )
        context = base_beam_executor.BaseBeamExecutor.Context(
            beam_pipeline_args=["--runner=DirectRunner"],
            tmp_dir=str(folder / "tmp"),
            unique_id="1",
        )
        recorded_evaluator.Executor(context).Do(
            inputs,
            {"evaluation": [evaluation], "blessing": [blessing]},
            {
                "eval_config": json_format.MessageToJson(
                    config, preserving_proto_field_name=True
                ),
                "example_splits": json.dumps(["eval"]),
                "module_path": "tfx_pipeline.evaluation.extractors",
                "fairness_indicator_thresholds": "null",
            },
        )
        return Evaluation(
            result=tfma.load_eval_result(
                evaluation.uri,
                model_name="candidate" if baseline else None,
            ),
            blessed=blessing.get_int_custom_property("blessed") == 1,
            folder=folder,
            said=json.loads(evaluation.get_string_custom_property("result")),
        )

    def artifact(self, kind, name):
        artifact = kind()
        artifact.uri = str(self.root / name)
        return artifact


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("evaluation"))


@pytest.fixture(scope="module")
def alone(world):
    return world.evaluate("good", min_gauc=0.0)


def expected(impressions):
    users, labels, scores, _, _ = map(list, zip(*impressions, strict=True))
    return oracle.metrics(users, labels, scores)


def assert_metrics(found, impressions):
    for name, value in expected(impressions).items():
        assert found[name] == pytest.approx(value, rel=1e-6, nan_ok=True), name


def test_gauc_over_users_whose_impressions_are_in_several_requests(
    world, alone
):
    impressions = toy_evaluation.impressions(world.requests)
    per_user = {request["user_id"][0] for request in world.requests}
    assert len(world.requests) > 2 * len(per_user)
    assert_metrics(alone.metrics(), impressions)
    found = alone.metrics()
    assert found["gauc_lower"] < found["gauc"] < found["gauc_upper"]
    assert alone.blessed


def bucket(value, bounds, names):
    """The bucket of a value, by looking at each bound."""
    return names[sum(value >= bound for bound in bounds)]


@pytest.mark.parametrize(
    ("name", "position", "bounds", "names"),
    [
        (
            "history_length",
            3,
            (100, 300, 1000),
            ["0-99", "100-299", "300-999", "1000+"],
        ),
        ("item_popularity", 4, (1, 10, 100), ["0", "1-9", "10-99", "100+"]),
    ],
)
def test_slices(world, alone, name, position, bounds, names):
    groups = {}
    for impression in toy_evaluation.impressions(world.requests):
        key = bucket(impression[position], bounds, names)
        groups.setdefault(key, []).append(impression)
    assert set(groups) == set(names)
    for key, impressions in groups.items():
        assert_metrics(alone.metrics(((name, key),)), impressions)
    slices = alone.result.get_slice_names()
    assert sum(bool(s) and s[0][0] == name for s in slices) == len(names)


def test_value_threshold(world, alone):
    gauc = alone.metrics()["gauc"]
    assert alone.said == {
        "gauc": pytest.approx(gauc),
        "gauc_lower": pytest.approx(alone.metrics()["gauc_lower"]),
        "gauc_upper": pytest.approx(alone.metrics()["gauc_upper"]),
        "baseline_gauc": None,
        "refused": "",
    }
    found = world.evaluate("good", min_gauc=0.99)
    assert not found.blessed
    assert found.said["refused"] == "below evaluator.min_gauc 0.99"
    assert not world.evaluate("good", min_gauc=gauc + 1e-6).blessed


@pytest.mark.parametrize(
    ("candidate", "baseline", "margin", "blessed"),
    [
        ("good", "good", 0.0, True),
        ("worse", "better", -1e-6, False),
        ("worse", "better", 1e-6, True),
        ("better", "worse", 0.0, True),
    ],
)
def test_change_threshold(world, alone, candidate, baseline, margin, blessed):
    # Upside down every user's AUC is one minus what it was.
    good = alone.metrics()["gauc"]
    assert abs(good - 0.5) > 0.01
    names = ("good", "bad") if good > 0.5 else ("bad", "good")
    roles = {"good": "good", "better": names[0], "worse": names[1]}
    drop = abs(2 * good - 1) if candidate == "worse" else 0.0
    found = world.evaluate(
        roles[candidate],
        roles[baseline],
        min_gauc=0.0,
        max_gauc_drop=drop + margin,
    )
    assert found.blessed is blessed
    wanted = good if roles[candidate] == "good" else 1 - good
    assert found.metrics()["gauc"] == pytest.approx(wanted, rel=1e-6)
    base = good if roles[baseline] == "good" else 1 - good
    assert found.said["gauc"] == pytest.approx(wanted, rel=1e-6)
    assert found.said["baseline_gauc"] == pytest.approx(base, rel=1e-6)
    reason = (
        f"{base - wanted:.4f} below the last blessed model's GAUC {base:.4f}, "
        f"more than evaluator.max_gauc_drop {drop + margin:g}"
    )
    assert found.said["refused"] == ("" if blessed else reason)


def test_a_gauc_that_does_not_exist_blesses_nothing(world):
    request = {
        "user_id": [1],
        "behavior_item_ids": [],
        "candidate_item_ids": [100, 200],
        "candidate_popularity": [1, 1],
        "clicks": [1, 1],
    }
    toy_evaluation.write_requests(
        world.root / "clicks_only" / "Split-eval", [request, request]
    )
    found = world.evaluate("good", examples="clicks_only", min_gauc=0.0)
    assert math.isnan(found.metrics()["gauc"])
    assert not found.blessed
    assert found.said["gauc"] is None
    assert "no user has clicked and not clicked" in found.said["refused"]


def test_bucket_names():
    assert extractors.bucket_names([50, 200]) == ["0-49", "50-199", "200+"]
    assert extractors.bucket_names([1, 2, 10]) == ["0", "1", "2-9", "10+"]
