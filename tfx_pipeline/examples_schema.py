"""The TFMD schema of request-grouped Examples, as the data declare it.

A served request (environment ``SERVING``) has no labels and no popularity.
"""

from __future__ import annotations

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from schemas.ranking_schema import RankingSchema
from tfx_pipeline import features


def request_schema(declared: RankingSchema) -> str:
    """Returns the schema in text form."""
    schema = schema_pb2.Schema(default_environment=["TRAINING", "SERVING"])

    def add(name: str, **value_count: int) -> schema_pb2.Feature:
        feature = schema.feature.add(name=name, type=schema_pb2.INT)
        feature.presence.min_count = 1
        if value_count:
            feature.presence.min_fraction = 1.0
            feature.value_count.CopyFrom(schema_pb2.ValueCount(**value_count))
        return feature

    names = declared.names
    for name in (features.USER_ID, *(f"user_{one}" for one in names["user"])):
        add(name, min=1, max=1)
    # A history may be empty.
    add(features.BEHAVIOR_ITEM_IDS)
    for name in names["behavior"]:
        add(f"behavior_{name}")
    add(features.CANDIDATE_ITEM_IDS, min=1)
    for name in names["item"]:
        add(f"candidate_{name}", min=1)
    for name in (features.CANDIDATE_POPULARITY, features.CLICKS):
        feature = add(name, min=1)
        feature.not_in_environment.append("SERVING")
        feature.int_domain.min = 0
    feature.int_domain.max = 1
    return text_format.MessageToString(schema)
