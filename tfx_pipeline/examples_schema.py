"""The TFMD schema of request-grouped Examples, derived from the declaration.

A served request (environment ``SERVING``) has no labels, weights, popularity
or features that are only for training.
"""

from __future__ import annotations

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2

from schemas.columns import Feature
from schemas.ranking_schema import RankingSchema
from tfx_pipeline import features

_ID = Feature()


def request_schema(declared: RankingSchema) -> str:
    """Returns the schema in text form."""
    schema = schema_pb2.Schema(default_environment=["TRAINING", "SERVING"])

    def add(
        name: str, feature: Feature = _ID, **value_count: int
    ) -> schema_pb2.Feature:
        kind = schema_pb2.INT if feature.dtype == "int64" else schema_pb2.FLOAT
        added = schema.feature.add(name=name, type=kind)
        added.presence.min_count = 1
        if value_count:
            added.presence.min_fraction = 1.0
            added.value_count.CopyFrom(schema_pb2.ValueCount(**value_count))
        if feature.training_only:
            added.not_in_environment.append("SERVING")
        return added

    given = declared.features
    add(features.USER_ID, min=1, max=1)
    for name, feature in given.user.items():
        width = feature.raw_width
        add(f"user_{name}", feature, min=width, max=width)
    # A history may be empty.
    add(features.BEHAVIOR_ITEM_IDS)
    for name in given.behavior:
        add(f"behavior_{name}", given.of_behavior(name))
    add(features.CANDIDATE_ITEM_IDS, min=1)
    for prefix, group in (
        ("candidate", given.item),
        ("candidate", given.candidate),
        ("context", given.context),
    ):
        for name, feature in group.items():
            add(f"{prefix}_{name}", feature, min=feature.raw_width)
    of_training = Feature(training_only=True)
    popularity = add(features.CANDIDATE_POPULARITY, of_training, min=1)
    popularity.int_domain.min = 0
    for name in features.labels(declared):
        label = add(name, of_training, min=1)
        label.int_domain.min, label.int_domain.max = 0, 1
    if declared.weight:
        of_training = Feature(type="float", training_only=True)
        weights = add(features.WEIGHTS, of_training, min=1)
        weights.float_domain.min = 0
    return text_format.MessageToString(schema)
