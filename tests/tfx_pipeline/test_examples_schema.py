"""The generated schema of Examples says what the join writes."""

from __future__ import annotations

import pathlib

import pyarrow as pa
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_data_validation.api import validation_api
from tensorflow_data_validation.statistics import stats_impl, stats_options
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx_bsl.coders import example_coder

from schemas import ranking_schema
from serving.export.exporter import UNSERVED_FEATURES
from tests.tfx_pipeline import own_layouts
from tests.tfx_pipeline.test_declared_data import write_examples
from tests.tfx_pipeline.transforms import join_oracle
from tfx_pipeline.examples_schema import request_schema

pytestmark = pytest.mark.tf

PUBLISHED = {
    "train_samples": [
        join_oracle.sample_row(7, 20, (0, 1)),
        join_oracle.sample_row(7, 21),
        join_oracle.sample_row(-8, 20),
    ],
    "train_user_features": [
        join_oracle.user_row(7, [20, 0, 9], [1, 0, 2], (1, None, 3, 4, 5)),
        join_oracle.user_row(-8),
    ],
    "item_features": [
        join_oracle.item_row(20, None),
        join_oracle.item_row(21),
    ],
    "scl_embedding_int8_p90": [join_oracle.vector_row(20)],
}
NAMES = ("taobao_mm", *own_layouts.LAYOUTS)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """By declaration: the declaration and the Examples of its join."""
    found = {}
    for name in NAMES:
        folder = tmp_path_factory.mktemp(name)
        if name in own_layouts.LAYOUTS:
            layout = own_layouts.LAYOUTS[name]
            tables = own_layouts.make(layout, seed=5)
            own_layouts.write(folder, layout, tables)
        else:
            tables = PUBLISHED | {
                table.replace("train", "test"): rows
                for table, rows in PUBLISHED.items()
            }
            join_oracle.write(folder, tables, rows_per_group=2)
        declared = ranking_schema.beside(folder)
        write_examples(folder)
        files = pathlib.Path(folder / "examples").rglob("*.gz")
        records = tf.data.TFRecordDataset(
            sorted(map(str, files)), compression_type="GZIP"
        )
        found[name] = declared, [one.numpy() for one in records]
    return found


def statistics(records, without=()):
    """Statistics of serialized Examples, as StatisticsGen computes them."""
    batch = example_coder.ExamplesToRecordBatchDecoder().DecodeBatch(records)
    kept = [name for name in batch.schema.names if name not in without]
    batch = pa.RecordBatch.from_arrays([batch[name] for name in kept], kept)
    return stats_impl.generate_statistics_in_memory(
        batch, stats_options.StatsOptions()
    )


def schema_of(declared):
    return text_format.Parse(request_schema(declared), schema_pb2.Schema())


def anomalies(found, schema, environment):
    result = validation_api.validate_statistics(
        found, schema, environment=environment
    )
    return set(result.anomaly_info)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_has_no_anomaly(written, name):
    declared, records = written[name]
    schema = schema_of(declared)
    assert not anomalies(statistics(records), schema, "TRAINING")
    # A served request is one without what is only known afterwards.
    unserved = {
        feature.name
        for feature in schema.feature
        if "SERVING" in feature.not_in_environment
    }
    assert unserved == {"clicks", "candidate_popularity"}
    assert unserved <= set(UNSERVED_FEATURES)
    served = statistics(records, unserved)
    assert not anomalies(served, schema, "SERVING")
    assert anomalies(served, schema, "TRAINING") == unserved


@pytest.mark.parametrize("name", NAMES)
def test_every_feature_that_is_written_is_in_the_schema(written, name):
    declared, records = written[name]
    schema = {feature.name: feature for feature in schema_of(declared).feature}
    lengths: dict = {}
    for record in records:
        features = tf.train.Example.FromString(record).features.feature
        assert features.keys() == schema.keys()
        for one, values in features.items():
            assert values.WhichOneof("kind") in (None, "int64_list")
            lengths.setdefault(one, set()).add(len(values.int64_list.value))
    for one, feature in schema.items():
        assert feature.type == schema_pb2.INT
        count = feature.value_count
        if one.startswith("user_"):
            assert lengths[one] == {1} and (count.min, count.max) == (1, 1)
        elif one.startswith("behavior_"):
            # A history may be empty.
            assert 0 in lengths[one] and not feature.HasField("value_count")
        else:
            assert min(lengths[one]) == count.min == 1 and not count.max
            assert lengths[one] == lengths["candidate_item_ids"]


@pytest.mark.parametrize("name", NAMES)
def test_every_feature_that_is_left_out_is_an_anomaly(written, name):
    declared, records = written[name]
    schema = schema_of(declared)
    for feature in schema.feature:
        found = statistics(records, [feature.name])
        assert anomalies(found, schema, "TRAINING") == {feature.name}


def test_examples_of_another_declaration_are_anomalies(written):
    """An anomaly for each feature that one has and the other lacks."""
    (news, _), (_, records) = written["news"], written["bare"]
    found = anomalies(statistics(records), schema_of(news), "TRAINING")
    assert found == {
        *(f"user_{one}" for one in own_layouts.NEWS.user),
        *(f"behavior_{one}" for one in own_layouts.NEWS.behavior),
        *(f"candidate_{one}" for one in own_layouts.NEWS.item),
        "candidate_kind",
    }
