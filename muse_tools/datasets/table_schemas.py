"""Builds the schemas of the raw tables from a declaration.

Fields have the names that the code uses; their metadata hold the names of the
columns in files and how the columns are decoded (`decoding`).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import pyarrow as pa

from muse_tools.datasets import decoding
from muse_tools.datasets.arrow_lists import list_of
from schemas.columns import Feature, Label, Place
from schemas.ranking_schema import RankingSchema

EMBEDDING_DIM = 128
"""Number of int8 codes of one item vector."""

USER_ID = "user_id"
ITEM_ID = "item_id"
LABEL = "click"
WEIGHT = "weight"
TIME, KNOWN_TIME = "time", "known_time"
REQUEST_ID = "request_id"
ACTION = "action"
BEHAVIOR_ITEM_IDS = "behavior_item_ids"
SCL_EMBEDDING = "item_vector"

TRAIN_SAMPLES = "train_samples"
TEST_SAMPLES = "test_samples"
TRAIN_USER_FEATURES = "train_user_features"
TEST_USER_FEATURES = "test_user_features"
ITEM_FEATURES = "item_features"
EMBEDDINGS = "scl_embedding_int8_p90"
IMPRESSIONS, EVENTS, USERS = "impressions", "events", "users"

SPLITS = ("train", "test")

# Columns of the search tables that hold item ids.
_SEARCHED_ITEMS = ("item_id", "purchased_item_id", "clicked_item_ids")
COLUMN, _SAME_IDS = b"column", b"same_ids"
_LABEL_PREFIX = "label_"


@functools.cache
def schemas(declared: RankingSchema) -> Mapping[str, pa.Schema]:
    """Returns the Arrow schema of each table by its name.

    Categories, keys and times are int64, numbers float32; lists hold the
    values of features with ``many``, vectors, and histories.
    """
    groups = _same_ids(declared)
    made = {
        table: pa.schema(
            _field(declared, table, name, column, groups.get(name, [column]))
            for name, column in columns.items()
        )
        for table, columns in declared.tables.items()
    }
    log = declared.log
    both = (
        {IMPRESSIONS: made["samples"], EVENTS: made["events"]}
        if log
        else {
            TRAIN_SAMPLES: made["samples"],
            TEST_SAMPLES: made["samples"],
            TRAIN_USER_FEATURES: made["users"],
            TEST_USER_FEATURES: made["users"],
        }
    )
    if log and declared.features.user:
        both[USERS] = made["users"]
    return {**both, ITEM_FEATURES: made["items"], EMBEDDINGS: made["vectors"]}


def _same_ids(declared: RankingSchema) -> dict[str, list[str]]:
    """Returns, by name, all columns of files that hold the same ids."""
    items, users = declared.tables["items"], declared.tables["users"]
    groups = {}
    for of_items, of_behaviors in (
        (ITEM_ID, BEHAVIOR_ITEM_IDS),
        *((f"item_{n}", f"behavior_{n}") for n in declared.features.behavior),
    ):
        if of_items in items:
            same = [items[of_items], *filter(None, [users.get(of_behaviors)])]
            same += _SEARCHED_ITEMS if of_items == ITEM_ID else ()
            groups[of_items] = groups[of_behaviors] = same
    return groups


def _field(
    declared: RankingSchema,
    table: str,
    name: str,
    column: str,
    same_ids: list[str],
) -> pa.Field:
    place = _places(declared).get(name, Place())
    kind: pa.DataType = pa.int64()
    how: dict[bytes, str] = {}
    if isinstance(place, Label):
        kind, how = _label_type(place)
    elif isinstance(place, Feature):
        kind, how = _feature_type(place)
    elif name == SCL_EMBEDDING:
        kind = list_of(pa.int8())
    elif name == WEIGHT:
        kind, how = pa.float32(), {decoding.NUMBER: ""}
    elif name in (TIME, KNOWN_TIME) and declared.log:
        how = {decoding.TIME: declared.log.timezone}
    if name == ACTION and table == "events":
        kind = pa.string()
    separator = place.separator
    if name.startswith("behavior_") and table == "users":
        kind, separator = list_of(kind), declared.history.separator
    texts = declared.texts()
    if name in texts:
        how[decoding.TEXT] = texts[name]
    if separator:
        how[decoding.SEPARATOR] = separator
    metadata = {COLUMN: column, _SAME_IDS: "\n".join(same_ids), **how}
    return pa.field(name, kind, metadata=metadata)


def _places(declared: RankingSchema) -> dict[str, Place]:
    """Returns the declared label, feature or column of each name."""
    features, behaviors = declared.features, declared.features.behavior
    found: dict[str, Place] = {**declared.label_names, **features.learned()}
    found[BEHAVIOR_ITEM_IDS] = declared.history
    found[SCL_EMBEDDING] = declared.vectors
    return found | {
        f"behavior_{name}": features.of_behavior(name) for name in behaviors
    }


def _label_type(label: Label) -> tuple[pa.DataType, dict[bytes, str]]:
    if label.one_hot:
        return list_of(pa.int8()), {}
    if label.at_least is None:
        return pa.int64(), {decoding.FLAG: ""}
    return pa.int64(), {decoding.AT_LEAST: str(label.at_least)}


def _feature_type(feature: Feature) -> tuple[pa.DataType, dict[bytes, str]]:
    kind: pa.DataType = pa.int64()
    how: dict[bytes, str] = {}
    if feature.dtype == "float32":
        kind, how[decoding.NUMBER] = pa.float32(), ""
    if feature.many:
        kind, how[decoding.MANY] = list_of(kind), str(feature.many)
    if feature.dim:
        kind, how[decoding.DIM] = list_of(kind), str(feature.dim)
    return kind, how


def file_names(declared: RankingSchema) -> dict[str, str]:
    """Returns the name of the files of each table."""
    found = {name: name for name in schemas(declared)}
    if declared.log:
        found |= {ITEM_FEATURES: "items", EMBEDDINGS: "vectors"}
        own = {str(file): one for file, one in declared.log.tables.items()}
        return {name: own.get(file, file) for name, file in found.items()}
    return found


def column_of(field: pa.Field) -> str:
    """Returns the name of a field's column in files."""
    return (field.metadata or {}).get(COLUMN, field.name.encode()).decode()


def describe_column(field: pa.Field) -> str:
    """Returns a column and its name in the code, such as ``205 (item_id)``."""
    column = column_of(field)
    return column if column == field.name else f"{column} ({field.name})"


def same_ids(field: pa.Field) -> list[str]:
    """Returns the columns of files that hold the same ids as a field."""
    own = column_of(field).encode()
    return (field.metadata or {}).get(_SAME_IDS, own).decode().split("\n")


def in_files(schema: pa.Schema) -> pa.Schema:
    """Returns a schema with the names that the columns have in files."""
    return pa.schema([pa.field(column_of(f), f.type) for f in schema])


def plain(schema: pa.Schema) -> pa.Schema:
    """Returns a schema for files whose columns have the names in the code."""
    return pa.schema([pa.field(f.name, f.type) for f in schema])


def is_label(field: pa.Field) -> bool:
    """Returns whether a field of impressions is a label."""
    return field.name == LABEL or field.name.startswith(_LABEL_PREFIX)
