"""TFX's Evaluator with our extractors and metric, on a hand-written model."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import math
import pathlib

import numpy as np
import pytest
import tensorflow_model_analysis as tfma
from google.protobuf import json_format
from tfx.dsl.components.base import base_beam_executor
from tfx.types import standard_artifacts

from schemas.settings_file import ConfigError
from tests.tfx_pipeline.evaluation import metric_oracles as oracle
from tests.tfx_pipeline.evaluation import toy_evaluation
from tfx_pipeline import config as config_lib
from tfx_pipeline import pipeline
from tfx_pipeline.components import recorded_evaluator
from tfx_pipeline.evaluation import slices

pytestmark = pytest.mark.tf


@dataclasses.dataclass
class Evaluation:
    result: tfma.EvalResult
    blessed: bool
    folder: pathlib.Path
    said: dict

    def metrics(self, slice_key=(), label=""):
        found = self.result.get_metrics_for_slice(slice_key, label)
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
            config_lib.EvaluatorConfig(
                bootstrap_samples=30, slices=toy_evaluation.SLICES, **settings
            ),
            toy_evaluation.DECLARED,
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
    users, labels, scores = zip(*(one[:3] for one in impressions), strict=True)
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


@pytest.mark.parametrize("label", ["order", "return"])
def test_every_label_has_its_own_metrics(world, alone, label):
    impressions = toy_evaluation.impressions(world.requests, label)
    assert_metrics(alone.metrics(label=label), impressions)
    said = alone.said["labels"][label]
    if label == "return":
        # Nothing is returned: no GAUC, and no failure either.
        assert math.isnan(alone.metrics(label=label)["gauc"])
        assert said == dict.fromkeys(("gauc", "gauc_lower", "gauc_upper"))
    else:
        assert said["gauc"] == pytest.approx(expected(impressions)["gauc"])
        assert said["gauc_lower"] < said["gauc"] < said["gauc_upper"]


def bucket(value, bounds, names):
    """The bucket of a value, by looking at each bound."""
    return names[sum(value >= bound for bound in bounds)]


def groups_of(impressions):
    """Names of the groups of each impression, by slice."""
    seen = collections.Counter(one.topic for one in impressions if one.topic)
    largest = sorted(seen, key=lambda topic: (-seen[topic], topic))[:24]
    assert len(seen) > 24
    ages = sorted(one.age for one in impressions if one.age == one.age)
    bounds = sorted({ages[share * len(ages) // 5] for share in (1, 2, 3, 4)})
    edges = [f"{bound:g}" for bound in bounds]
    ranges = [
        f"below {edges[0]}",
        *(f"{low} to {high}" for low, high in itertools.pairwise(edges)),
        f"{edges[-1]} and above",
    ]
    lengths = ["0-99", "100-299", "300-999", "1000+"]
    for one in impressions:
        topic = str(one.topic) if one.topic in largest else "other"
        yield (
            {
                "history_length": [
                    bucket(one.history, (100, 300, 1000), lengths)
                ],
                "item_popularity": [
                    bucket(
                        one.popularity,
                        (1, 10, 100),
                        ["0", "1-9", "10-99", "100+"],
                    )
                ],
                "user_age": [
                    bucket(one.age, bounds, ranges)
                    if one.age == one.age
                    else "missing"
                ],
                "context_hour": [str(one.hour)],
                "item_topic": [topic if one.topic else "missing"],
                "item_tags": {str(tag) for tag in one.tags if tag}
                or ["missing"],
            },
            one,
        )


@pytest.mark.parametrize("label", ["click", "order", "return"])
@pytest.mark.parametrize("name", toy_evaluation.SLICES)
def test_slices(world, alone, name, label):
    impressions = toy_evaluation.impressions(world.requests, label)
    groups = {}
    for names, one in groups_of(impressions):
        for group in names[name]:
            groups.setdefault(group, []).append(one)
    output = "" if label == "click" else label
    for key, chosen in groups.items():
        assert_metrics(alone.metrics(((name, key),), output), chosen)
    found = {
        key[0][1]
        for key in alone.result.get_slice_names()
        if key and key[0][0] == name
    }
    assert found == set(groups)
    rows = {key: {"impressions": len(of)} for key, of in groups.items()}
    order = [key for key, _ in slices.ordered(name, rows)]
    assert sorted(order) == sorted(groups)
    if name == "item_topic":
        sizes = [rows[key]["impressions"] for key in order[:-2]]
        assert sizes == sorted(sizes, reverse=True)
        assert order[-2:] == ["other", "missing"]
    if name == "user_age":
        assert order[0].startswith("below") and order[-1] == "missing"
        lowest = [float(key.split()[0]) for key in order[1:-1]]
        assert lowest == sorted(lowest)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"slices": ("user_agee",)}, "Received: 'user_agee'"),
        ({"slices": ("item_look",)}, "Received: 'item_look'"),
        ({"slices": ("behavior_topic",)}, "context_hour. Received"),
        ({"min_gauc_of": {"click": 0.5}}, "order, return. Received: 'click'"),
    ],
)
def test_what_is_not_declared_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message) as error:
        pipeline.eval_config(
            config_lib.EvaluatorConfig(**settings), toy_evaluation.DECLARED
        )
    assert "\n" not in str(error.value)


def test_hours_and_days_are_shown_by_name():
    declared = toy_evaluation.DECLARED
    assert slices.shown("context_hour", "1", declared) == "0:00"
    assert slices.shown("context_hour", "missing", declared) == "missing"
    assert slices.shown("item_topic", "1", declared) == "1"


def test_value_threshold(world, alone):
    gauc = alone.metrics()["gauc"]
    assert alone.said == {
        "gauc": pytest.approx(gauc),
        "gauc_lower": pytest.approx(alone.metrics()["gauc_lower"]),
        "gauc_upper": pytest.approx(alone.metrics()["gauc_upper"]),
        "baseline_gauc": None,
        "refused": "",
        "label": "click",
        "labels": alone.said["labels"],
    }
    found = world.evaluate("good", min_gauc=gauc + 1e-6)
    assert not found.blessed
    assert found.said["refused"] == f"below evaluator.min_gauc {gauc + 1e-6:g}"


@pytest.mark.once
@pytest.mark.parametrize(
    ("candidate", "baseline", "margin", "blessed"),
    [
        ("good", "good", 0.0, True),
        # One way or the other, were a lower GAUC taken for the better one.
        ("worse", "better", -1e-6, False),
        ("worse", "better", 1e-6, True),
    ],
)
def test_change_threshold(world, alone, candidate, baseline, margin, blessed):
    # Upside down every user's AUC is one minus what it was.
    good = alone.metrics()["gauc"]
    assert abs(good - 0.5) > 0.01
    names = ("good", "bad") if good > 0.5 else ("bad", "good")
    roles = {"good": "good", "better": names[0], "worse": names[1]}
    drop = abs(2 * good - 1) if candidate == "worse" else 0.0
    order = alone.metrics(label="order")["gauc"]
    order = order if roles[candidate] == "good" else 1 - order
    found = world.evaluate(
        roles[candidate],
        roles[baseline],
        min_gauc=0.0,
        max_gauc_drop=drop + margin,
        # A threshold of another label that is reached.
        min_gauc_of={"order": order - 1e-3},
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


@pytest.mark.once
def test_other_labels_may_have_thresholds(world, alone):
    gauc = alone.metrics(label="order")["gauc"]
    found = world.evaluate(
        "good", "good", min_gauc=0.0, min_gauc_of={"order": gauc + 1e-3}
    )
    assert not found.blessed
    assert found.said["refused"] == (
        f"GAUC of order {gauc:.4f} below evaluator.min_gauc_of {gauc + 1e-3:g}"
    )
    assert found.said["labels"]["order"]["gauc"] == pytest.approx(gauc)
    never = world.evaluate("good", min_gauc=0.0, min_gauc_of={"return": 0.0})
    assert not never.blessed
    assert "with and without return" in never.said["refused"]


def test_a_gauc_that_does_not_exist_blesses_nothing(world):
    request = {
        "user_id": [1],
        "behavior_item_ids": [],
        "candidate_item_ids": [100, 200],
        "candidate_popularity": [1, 1],
        "clicks": [1, 1],
        "label_order": [0, 1],
        "label_return": [0, 0],
        "user_age": [3.5],
        "context_hour": [0, 0],
        "candidate_topic": [1, 2],
        "candidate_tags": [0] * 4,
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
    assert slices.bucket_names([50, 200]) == ["0-49", "50-199", "200+"]
    assert slices.bucket_names([1, 2, 10]) == ["0", "1", "2-9", "10+"]
