"""An anomaly stops the run and names the feature."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from tensorflow_data_validation.statistics import stats_impl, stats_options
from tfx.types import standard_artifacts

from muse_tools.datasets.errors import DataError
from tfx_pipeline.components import strict_example_validator
from tfx_pipeline.runs import runner

pytestmark = pytest.mark.tf

REQUESTS = {
    "user_id": [[1], [2]],
    **{f"user_profile_{i}": [[1], [0]] for i in range(1, 6)},
    "behavior_item_ids": [[1, 2, 3], []],
    "behavior_category": [[1, 2, 3], []],
    "candidate_item_ids": [[4, 5], [6]],
    "candidate_category": [[1, 1], [2]],
    "candidate_city": [[1, 1], [2]],
    "candidate_province": [[1, 1], [2]],
    "candidate_popularity": [[0, 7], [1]],
    "clicks": [[0, 1], [0]],
}


def validate(tmp_path, train, evaluation):
    statistics = standard_artifacts.ExampleStatistics()
    statistics.uri = str(tmp_path / "statistics")
    statistics.split_names = json.dumps(["train", "eval"])
    for split, columns in (("train", train), ("eval", evaluation)):
        batch = pa.RecordBatch.from_arrays(
            [pa.array(column) for column in columns.values()],
            names=list(columns),
        )
        computed = stats_impl.generate_statistics_in_memory(
            batch, stats_options.StatsOptions()
        )
        folder = tmp_path / "statistics" / f"Split-{split}"
        folder.mkdir(parents=True)
        (folder / "FeatureStats.pb").write_bytes(computed.SerializeToString())
    schema = standard_artifacts.Schema()
    schema.uri = str(tmp_path / "schema")
    (tmp_path / "schema").mkdir()
    (tmp_path / "schema" / "schema.pbtxt").write_text(
        runner.schema_path().read_text()
    )
    anomalies = standard_artifacts.ExampleAnomalies()
    anomalies.uri = str(tmp_path / "anomalies")
    strict_example_validator.Executor().Do(
        {"statistics": [statistics], "schema": [schema]},
        {"anomalies": [anomalies]},
        {"exclude_splits": "[]"},
    )
    return anomalies


def test_good_requests_pass(tmp_path):
    anomalies = validate(tmp_path, REQUESTS, REQUESTS)
    assert json.loads(anomalies.split_names) == ["train", "eval"]


def without(name):
    return {key: value for key, value in REQUESTS.items() if key != name}


@pytest.mark.parametrize(
    ("broken", "feature"),
    [
        ({**REQUESTS, "clicks": [[0, 2], [0]]}, "clicks"),
        ({**REQUESTS, "user_profile_3": [[1, 2], [0]]}, "user_profile_3"),
        ({**REQUESTS, "candidate_city": [[1, 1], []]}, "candidate_city"),
        (
            {**REQUESTS, "candidate_item_ids": [["a"], ["b"]]},
            "candidate_item_ids",
        ),
        (
            {**REQUESTS, "candidate_popularity": [[-1], [0]]},
            "candidate_popularity",
        ),
        (without("user_id"), "user_id"),
        (without("behavior_item_ids"), "behavior_item_ids"),
        ({**REQUESTS, "surprise": [[1], [1]]}, "surprise"),
    ],
)
@pytest.mark.parametrize("split", ["train", "eval"])
def test_every_anomaly_stops_and_is_named(tmp_path, broken, feature, split):
    pair = (broken, REQUESTS) if split == "train" else (REQUESTS, broken)
    with pytest.raises(DataError) as info:
        validate(tmp_path, *pair)
    assert info.value.code == "ANOMALY"
    assert f"{split}: feature {feature}: " in info.value.message
    # Nothing else is wrong.
    assert info.value.message.count(": feature ") == 1
    assert "\n" not in str(info.value)


def test_all_anomalies_are_named_at_once(tmp_path):
    broken = {**without("user_id"), "clicks": [[0, 2], [0]]}
    with pytest.raises(DataError) as info:
        validate(tmp_path, broken, without("candidate_city"))
    for text in (
        "train: feature clicks:",
        "train: feature user_id:",
        "eval: feature candidate_city:",
    ):
        assert text in info.value.message
