"""Literal rows in, literal rows and schema out."""

from __future__ import annotations

import functools

import pytest
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2
from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

from schemas.ranking_schema import preset
from serving.export.feature_names import tensor_names
from tfx_pipeline import features, learned_values, preprocessing

pytestmark = pytest.mark.tf

DECLARED = preset("taobao_mm").features
# Fewer, of each group: each costs seconds of Beam and of tracing.
FEW = DECLARED.model_copy(
    update={
        "user": {"profile_1": DECLARED.user["profile_1"]},
        "item": {name: DECLARED.item[name] for name in ("category", "city")},
    }
)
TENSORS = tensor_names(DECLARED)
FEATURES = (
    features.USER_ID,
    *TENSORS.user,
    features.BEHAVIOR_ITEM_IDS,
    "behavior_category",
    features.CANDIDATE_ITEM_IDS,
    *TENSORS.item,
    features.CANDIDATE_POPULARITY,
    features.CLICKS,
)
RAW = dataset_metadata.DatasetMetadata(
    schema_utils.schema_from_feature_spec(
        dict.fromkeys(FEATURES, tf.io.VarLenFeature(tf.int64))
    )
)
BIG = 2**62


def row(
    *,
    user=1,
    user_profile=(0, 0, 0, 0, 0),
    history=(),
    categories=(),
    items=(1,),
    category=None,
    city=None,
    province=None,
    clicks=None,
):
    count = len(items)
    zeros = [0] * count
    return {
        features.USER_ID: [user],
        **{
            name: [value]
            for name, value in zip(TENSORS.user, user_profile, strict=True)
        },
        features.BEHAVIOR_ITEM_IDS: list(history),
        "behavior_category": list(categories),
        features.CANDIDATE_ITEM_IDS: list(items),
        "candidate_category": list(category or zeros),
        "candidate_city": list(city or zeros),
        "candidate_province": list(province or zeros),
        features.CANDIDATE_POPULARITY: zeros,
        features.CLICKS: list(clicks or zeros),
    }


def transform(folder, train, other=(), declared=DECLARED, **settings):
    """Analyzes `train`; returns it, `other` and the output transformed."""
    config = {
        "features": declared.model_dump(mode="json"),
        "max_history": 1000,
        "vocabulary_size": 100,
        "vocabulary_frequency_threshold": 1,
        **settings,
    }
    with tft_beam.Context(temp_dir=str(folder / "tmp")):
        (rows, metadata), function = (
            list(train),
            RAW,
        ) | tft_beam.AnalyzeAndTransformDataset(
            functools.partial(
                preprocessing.preprocessing_fn, custom_config=config
            )
        )
        others = []
        if other:
            others, _ = (
                (list(other), RAW),
                function,
            ) | tft_beam.TransformDataset()
        path = str(folder / "function")
        _ = function | tft_beam.WriteTransformFn(path)
    return rows, others, metadata, tft.TFTransformOutput(path)


def profile(*indices):
    return {
        name: [index] for name, index in zip(TENSORS.user, indices, strict=True)
    }


def lists(rows):
    return [
        {
            name: value.tolist() if hasattr(value, "tolist") else value
            for name, value in one.items()
        }
        for one in rows
    ]


@pytest.fixture(scope="module")
def literal(tmp_path_factory):
    """Three training requests and one with values never seen."""
    train = [
        row(
            user=-BIG,
            user_profile=(7, 7, 0, -3, BIG),
            # 30 three times, 31 twice, 32 once, with padding in between.
            history=(101, 0, 102, 103, 0, 104),
            categories=(30, 0, 31, 30, 0, 32),
            items=(201, 202),
            category=(30, 31),
            city=(5, 0),
            province=(8, 9),
            clicks=(1, 0),
        ),
        row(user=2, user_profile=(7, 8, 0, 4, BIG), items=(0,), city=(6,)),
        row(
            user=3,
            user_profile=(9, 7, 0, 4, 1),
            history=(0, 0),
            categories=(0, 0),
            items=(203, 204, 205),
            category=(0, 30, 77),
            city=(5, 5, 5),
            province=(9, 9, 9),
            clicks=(0, 0, 1),
        ),
    ]
    unseen = row(
        user=4,
        user_profile=(1000, 8, 5, 4, 2),
        history=(1, 2, 3, 4, 5),
        categories=(999, 30, 999, 998, 0),
        items=(1, 2, 3),
        category=(999, 30, 0),
        city=(999, 0, 6),
        province=(8, 999, 0),
    )
    return transform(
        tmp_path_factory.mktemp("literal"), train, [unseen], max_history=3
    )


def test_literal_rows(literal):
    rows, _, _, _ = literal
    # Vocabularies by frequency: category 30 31 77 32; ties by decreasing
    # text, as TFT orders them: 77 before 32.
    assert lists(rows) == [
        {
            "user_id": [-BIG],
            **profile(1, 1, 0, 2, 1),
            "behavior_item_ids": [102, 103, 104],
            "behavior_category": [2, 1, 4],
            "candidate_item_ids": [201, 202],
            "candidate_category": [1, 2],
            "candidate_city": [1, 0],
            "candidate_province": [2, 1],
            "candidate_category_matches": [1.0, 1.0],
            "clicks": [1, 0],
        },
        {
            "user_id": [2],
            **profile(1, 2, 0, 1, 1),
            "behavior_item_ids": [],
            "behavior_category": [],
            "candidate_item_ids": [0],
            "candidate_category": [0],
            "candidate_city": [2],
            "candidate_province": [0],
            "candidate_category_matches": [0.0],
            "clicks": [0],
        },
        {
            "user_id": [3],
            **profile(2, 1, 0, 1, 2),
            "behavior_item_ids": [],
            "behavior_category": [],
            "candidate_item_ids": [203, 204, 205],
            "candidate_category": [0, 1, 3],
            "candidate_city": [1, 1, 1],
            "candidate_province": [1, 1, 1],
            "candidate_category_matches": [0.0, 0.0, 0.0],
            "clicks": [0, 0, 1],
        },
    ]


def test_values_never_seen_share_the_index_after_the_last(literal):
    _, (unseen,), _, _ = literal
    (found,) = lists([unseen])
    # Vocabularies have 2, 2, 1 (nothing but missing), 2 and 2 values.
    assert {n: found[n] for n in TENSORS.user} == profile(3, 2, 2, 1, 3)
    assert found["behavior_item_ids"] == [3, 4, 5]
    assert found["behavior_category"] == [5, 5, 0]
    assert found["candidate_category"] == [5, 1, 0]
    assert found["candidate_city"] == [3, 0, 2]
    assert found["candidate_province"] == [2, 3, 0]
    # Two unknown categories match each other; category 30 left the history.
    assert found["candidate_category_matches"] == [2.0, 0.0, 0.0]


def test_schema(literal):
    _, _, metadata, _ = literal
    expected = text_format.Parse(
        """
        feature { name: "user_id" type: INT }
        feature { name: "behavior_item_ids" type: INT }
        feature { name: "behavior_category" type: INT }
        feature { name: "candidate_item_ids" type: INT }
        feature { name: "candidate_category" type: INT }
        feature { name: "candidate_city" type: INT }
        feature { name: "candidate_province" type: INT }
        feature { name: "candidate_category_matches" type: FLOAT }
        feature { name: "clicks" type: INT }
        """,
        schema_pb2.Schema(),
    )
    for name in TENSORS.user:
        text = f"""name: "{name}" type: INT presence {{ min_fraction: 1.0 }}
                   shape {{ dim {{ size: 1 }} }}"""
        text_format.Parse(text, expected.feature.add())
    by_name = {feature.name: feature for feature in metadata.schema.feature}
    assert by_name == {feature.name: feature for feature in expected.feature}


def test_vocabularies_are_read_in_index_order(literal):
    _, _, _, output = literal
    vocabularies = {
        name: values.tolist()
        for name, values in learned_values.read_learned(
            output, DECLARED
        ).items()
    }
    # TFT writes -1 for a field that is missing everywhere.
    assert vocabularies.pop("user_profile_3") == [-1]
    assert vocabularies == {
        "user_profile_1": [7, 9],
        "user_profile_2": [7, 8],
        "user_profile_4": [4, -3],
        "user_profile_5": [BIG, 1],
        "item_category": [30, 31, 77, 32],
        "item_city": [5, 6],
        "item_province": [9, 8],
    }


@pytest.mark.once
def test_rare_and_surplus_values_are_out_of_vocabulary(tmp_path):
    train = [
        row(
            user_profile=(1, 0, 0, 0, 0),
            history=(1, 2, 3, 4),
            categories=(10, 10, 20, 30),
            category=(20,),
            city=(1,),
        ),
        row(user_profile=(1, 0, 0, 0, 0), category=(10,), city=(2,)),
        row(user_profile=(2, 0, 0, 0, 0), category=(20,), city=(2,)),
    ]
    rows, _, _, output = transform(
        tmp_path,
        train,
        declared=FEW,
        vocabulary_frequency_threshold=2,
        vocabulary_size=1,
    )
    found = lists(rows)
    # Category 20 and 10 come three times, 30 once; one is kept.
    learned = learned_values.read_learned(output, FEW)
    (kept,) = learned["item_category"].tolist()
    index = {kept: 1}
    assert [one["behavior_category"] for one in found] == [
        [index.get(value, 2) for value in (10, 10, 20, 30)],
        [],
        [],
    ]
    assert [one["candidate_city"] for one in found] == [[2], [1], [1]]
    assert [one["user_profile_1"][0] for one in found] == [1, 1, 2]
    # Matches count indices: all values outside the vocabulary are one.
    assert found[0]["candidate_category_matches"] == [1.0 + 2.0 * (kept != 20)]


@pytest.mark.parametrize("length", [0, 1, 3, 4, 5, 9])
def test_history_keeps_the_newest(literal, length):
    _, _, _, output = literal
    layer = output.transform_features_layer()
    raw = row(history=range(1, length + 1), categories=[30] * length)
    batch = {
        name: tf.sparse.from_dense(tf.constant([values], tf.int64))
        for name, values in raw.items()
    }
    found = tf.sparse.to_dense(layer(batch)["behavior_item_ids"]).numpy()
    wanted = list(range(1, length + 1))[-3:]
    assert found.tolist() == [wanted]
