"""Kinds of features, their widths, names behind the tables, and columns."""

import datetime

import pytest
import yaml

from schemas import ranking_schema
from schemas.columns import Feature
from schemas.ranking_schema import RankingSchema

# Declared, kind, whether an index, raw type, raw width, width.
KINDS = [
    ({}, "vocabulary", True, "int64", 1, 1),
    ({"type": "string"}, "vocabulary", True, "int64", 1, 1),
    ({"type": "string", "many": 3}, "vocabulary", True, "int64", 3, 3),
    ({"hashed": 100}, "hashed", True, "int64", 1, 1),
    ({"hashed": 100, "many": 4}, "hashed", True, "int64", 4, 4),
    ({"type": "float", "buckets": 8}, "buckets", True, "float32", 1, 1),
    ({"type": "float"}, "number", False, "float32", 1, 2),
    ({"type": "float", "log": True}, "number", False, "float32", 1, 2),
    ({"type": "vector", "dim": 5}, "vector", False, "float32", 5, 6),
    ({"time": "hour"}, "vocabulary", True, "int64", 1, 1),
    ({"time": "since"}, "buckets", True, "float32", 1, 1),
    (
        {"time": "since", "type": "float", "buckets": 4},
        "buckets",
        True,
        "float32",
        1,
        1,
    ),
]


@pytest.mark.parametrize(
    ("given", "kind", "is_index", "dtype", "raw_width", "width"), KINDS
)
def test_what_becomes_of_values(given, kind, is_index, dtype, raw_width, width):
    feature = Feature(**given)
    assert feature.kind == kind and feature.is_index == is_index
    assert feature.dtype == dtype
    assert feature.raw_width == raw_width and feature.width == width
    # As Transform gets it, and back.
    assert Feature.model_validate(feature.model_dump(mode="json")) == feature


def test_since_is_in_16_buckets_unless_declared():
    assert Feature(time="since").buckets == 16
    assert Feature(time="since", buckets=4).buckets == 4


SHOP = {
    "name": "shop",
    "user": {"column": "uid", "type": "string"},
    "item": {"column": "sku", "type": "string"},
    "labels": {"open": "opened", "order": None, "like": "liked"},
    "weight": "importance",
    "features": {
        "user": {"age": {"type": "float"}},
        "item": {
            "brand": {"type": "string"},
            "tags": {"type": "string", "many": 3, "separator": "|"},
        },
        "context": {
            "device": {"column": "dev", "type": "string"},
            "hour": {"time": "hour"},
        },
        "candidate": {"position": {"training_only": True}},
        "behavior": {
            "brand": "brand_then",
            "tags": None,
            "what": {"column": "kind", "type": "string"},
            "since": {"time": "since"},
        },
        "matches": ["brand", "tags"],
    },
    "log": {
        "request": {"column": "page", "type": "string"},
        "action": "kind",
        "train": [datetime.date(2026, 3, 1), datetime.date(2026, 3, 2)],
        "eval": [datetime.date(2026, 3, 3), datetime.date(2026, 3, 4)],
    },
}


def test_names_behind_the_tables_of_logs():
    declared = RankingSchema.model_validate(SHOP)
    assert declared.tables == {
        "samples": {
            "click": "opened",
            "label_order": "order",
            "label_like": "liked",
            "user_id": "uid",
            "item_id": "sku",
            "weight": "importance",
            "context_device": "dev",
            "candidate_position": "position",
            "time": "time",
            "request_id": "page",
        },
        "users": {"user_id": "uid", "user_age": "age"},
        "items": {"item_id": "sku", "item_brand": "brand", "item_tags": "tags"},
        "vectors": {"item_id": "sku", "item_vector": "item_vector"},
        "events": {
            "user_id": "uid",
            "item_id": "sku",
            "time": "time",
            "behavior_brand": "brand_then",
            "behavior_what": "kind",
            "action": "kind",
        },
    }
    assert [*declared.label_names] == ["click", "label_order", "label_like"]
    assert declared.texts() == {
        "user_id": "user_id",
        "item_id": "item_id",
        "request_id": "request_id",
        "behavior_item_ids": "item_id",
        "item_brand": "item_brand",
        "item_tags": "item_tags",
        "context_device": "context_device",
        "behavior_what": "behavior_what",
        "behavior_brand": "item_brand",
        "behavior_tags": "item_tags",
    }


def test_names_behind_the_tables_of_histories():
    """Behaviors' own features are lists of users."""
    features = {**SHOP["features"], "context": {}}
    features["behavior"] = {"brand": None, "what": {"type": "string"}}
    features["matches"] = []
    given = {**SHOP, "features": features, "history": "seen"}
    del given["log"]
    declared = RankingSchema.model_validate(given)
    assert declared.tables["users"] == {
        "user_id": "uid",
        "user_age": "age",
        "behavior_item_ids": "seen",
        "behavior_what": "what",
    }
    assert "events" not in declared.tables


def test_what_is_learned():
    features = RankingSchema.model_validate(SHOP).features
    assert [*features.learned()] == [
        "user_age",
        "item_brand",
        "item_tags",
        "context_device",
        "context_hour",
        "candidate_position",
        "behavior_what",
        "behavior_since",
    ]
    # The brand was another then; tags are those of the item table.
    assert features.of_items == ["tags"]
    assert [*features.of_events] == ["what", "since"]
    assert features.of_behavior("brand") == features.item["brand"]
    assert features.of_behavior("since").buckets == 16


def test_every_kind_is_written_and_read_again(tmp_path):
    declared = RankingSchema.model_validate(SHOP)
    path = tmp_path / "schema.yaml"
    path.write_text(declared.yaml())
    again = ranking_schema.load(path)
    assert again == declared and again.digest() == declared.digest()
    path.write_text(yaml.safe_dump(SHOP, sort_keys=False))
    assert ranking_schema.load(path) == declared


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        ("user", "age", {"type": "float", "buckets": 3}),
        ("user", "age", {"type": "float", "log": True}),
        ("item", "tags", {"type": "string", "many": 2, "separator": "|"}),
        ("item", "tags", {"type": "string", "many": 3, "separator": ","}),
        ("item", "brand", {"type": "string", "hashed": 9}),
        ("context", "hour", {"time": "weekday"}),
        ("candidate", "position", None),
        ("behavior", "since", {"time": "since", "buckets": 3}),
    ],
)
def test_every_part_of_a_feature_changes_the_digest(group, name, value):
    changed = {**SHOP["features"]}
    changed[group] = {**changed[group], name: value}
    after = RankingSchema.model_validate({**SHOP, "features": changed})
    assert after.digest() != RankingSchema.model_validate(SHOP).digest()


def test_labels_and_weights_change_the_digest():
    digests = {
        RankingSchema.model_validate({**SHOP, **change}).digest()
        for change in (
            {},
            {"weight": None},
            {"weight": "other"},
            {"labels": {"open": "opened", "order": None}},
            {"labels": {"order": None, "open": "opened", "like": "liked"}},
            {
                "labels": {
                    **SHOP["labels"],
                    "order": {"loss_weight": 0.5},
                }
            },
        )
    }
    assert len(digests) == 6
