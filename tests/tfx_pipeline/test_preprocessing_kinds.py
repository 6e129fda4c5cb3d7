"""Every kind of feature, from raw values to the model's, against NumPy."""

from __future__ import annotations

import collections
import functools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

from muse_keras import tensorflow as encodings
from schemas.columns import Features
from tfx_pipeline import learned_values, preprocessing

pytestmark = [pytest.mark.once, pytest.mark.tf]

NUMBER, LOG = {"type": "float"}, {"type": "float", "log": True}
DECLARED = Features.model_validate(
    {
        "user": {
            "age": LOG,
            "interests": {"many": 3, "hashed": 5},
            "taste": {"type": "vector", "dim": 2},
        },
        "item": {
            "category": {},
            "tags": {"many": 2},
            "words": {"many": 2, "hashed": 7},
            "size": {"type": "float", "buckets": 3},
            "price": NUMBER,
            "constant": NUMBER,
            "unknown": NUMBER,
            "unmeasured": {"type": "float", "buckets": 5},
            "same": {"type": "float", "buckets": 5},
            "look": {"type": "vector", "dim": 3},
        },
        "context": {"device": {}, "load": {"type": "vector", "dim": 1}},
        "candidate": {"position": {"training_only": True}},
        "behavior": {
            "category": {},
            "tags": {},
            "words": {},
            "size": "paid",
            "action": {"hashed": 3},
            "since": {"time": "since"},
        },
        "matches": ["category", "tags", "words", "size"],
    }
)
LEARNED = DECLARED.learned()
MAX_HISTORY = 3


def places():
    """Features of Examples: what they are encoded as, by name."""
    found = {f"user_{name}": f"user_{name}" for name in DECLARED.user}
    found |= {f"candidate_{name}": f"item_{name}" for name in DECLARED.item}
    found |= {f"context_{name}": f"context_{name}" for name in DECLARED.context}
    for name in DECLARED.candidate:
        found[f"candidate_{name}"] = f"candidate_{name}"
    for name in DECLARED.behavior:
        own = "behavior" if name in DECLARED.of_events else "item"
        found[f"behavior_{name}"] = f"{own}_{name}"
    return found


PLACES = places()


def raw_values(name, count, rng, unseen):
    """Values of some things; about a quarter of them are missing."""
    feature = LEARNED[PLACES[name]]
    shape = (count, feature.raw_width)
    if feature.dtype == "int64":
        first = 50 if unseen else 0
        return rng.integers(first, first + 6, shape) * (rng.random(shape) < 0.8)
    values = rng.normal(3.0, 40.0, shape)
    own = PLACES[name]
    if own in ("item_constant", "item_same"):
        values[:] = 4.5
    missing = rng.random(count) < 0.25
    missing |= own in ("item_unknown", "item_unmeasured")
    values[missing] = np.nan
    return values.astype(np.float32)


def make_rows(count, seed, unseen=False):
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        sizes = {
            "user": 1,
            "behavior": int(rng.integers(0, 6)),
            "candidate": int(rng.integers(1, 4)),
        }
        sizes["context"] = sizes["candidate"]
        row = {
            name: raw_values(name, sizes[name.split("_")[0]], rng, unseen)
            for name in PLACES
        }
        ids = rng.integers(1, 9, sizes["behavior"])
        row["behavior_item_ids"] = ids * (rng.random(len(ids)) < 0.8)
        row["candidate_item_ids"] = rng.integers(1, 9, sizes["candidate"])
        row["user_id"] = rng.integers(1, 9, 1)
        for name in ("clicks", "label_order"):
            row[name] = rng.integers(0, 2, sizes["candidate"])
        weights = rng.random(sizes["candidate"])
        row["weights"] = weights.astype(np.float32)
        rows.append(row)
    return rows


def lists(row):
    return {name: values.ravel().tolist() for name, values in row.items()}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Rows of the train split and others, each raw and transformed."""
    train, other = make_rows(60, 0), make_rows(20, 1, unseen=True)
    # Items that no batch of a server has seen, and no history at all.
    other[0]["behavior_item_ids"] = np.zeros(0, np.int64)
    for name in PLACES:
        if name.startswith("behavior_"):
            other[0][name] = other[0][name][:0]
    spec = {
        name: tf.io.VarLenFeature(
            tf.float32 if values.dtype == np.float32 else tf.int64
        )
        for name, values in train[0].items()
    }
    raw = dataset_metadata.DatasetMetadata(
        schema_utils.schema_from_feature_spec(spec)
    )
    folder = tmp_path_factory.mktemp("kinds")
    config = {
        "features": DECLARED.model_dump(mode="json"),
        "max_history": MAX_HISTORY,
        "vocabulary_size": 100,
        "vocabulary_frequency_threshold": 1,
    }
    function = functools.partial(
        preprocessing.preprocessing_fn, custom_config=config
    )
    with tft_beam.Context(temp_dir=str(folder / "tmp")):
        (found, _), learned = (
            list(map(lists, train)),
            raw,
        ) | tft_beam.AnalyzeAndTransformDataset(function)
        others, _ = (
            (list(map(lists, other)), raw),
            learned,
        ) | tft_beam.TransformDataset()
        _ = learned | tft_beam.WriteTransformFn(str(folder / "function"))
    output = tft.TFTransformOutput(str(folder / "function"))
    return train, found, other, others, output


@pytest.fixture(scope="module")
def learned(world):
    return learned_values.read_learned(world[4], DECLARED)


def train_values(world, name):
    """Raw values of the train split that something is learned of."""
    return np.concatenate(
        [
            row[place].ravel()
            for row in world[0]
            for place, own in PLACES.items()
            if own == name
        ]
    )


def test_what_is_learned(world, learned):
    assert set(learned) == {
        name
        for name, one in LEARNED.items()
        if one.kind in ("vocabulary", "buckets", "number")
    }
    for name, found in learned.items():
        feature, values = LEARNED[name], train_values(world, name)
        if feature.kind == "vocabulary":
            counts = collections.Counter(values[values != 0].tolist())
            assert found.dtype == np.int64 and set(found.tolist()) == {*counts}
            often = [counts[value] for value in found.tolist()]
            assert often == sorted(often, reverse=True)
            continue
        assert found.dtype == np.float32
        known = values[~np.isnan(values)].astype(np.float64)
        if feature.kind == "number":
            if feature.log:
                known = np.sign(known) * np.log1p(np.abs(known))
            wanted = [known.mean(), known.std()] if len(known) else [0, 0]
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4)
            continue
        assert (np.diff(found) > 0).all() and set(found) <= {0.0, *values}
        if name == "item_unmeasured":
            assert found.tolist() == [0.0]
        elif name == "item_same":
            assert found.tolist() == [4.5]
        else:
            assert len(found) == feature.buckets - 1
            shares = (known[:, None] < found).mean(0)
            wanted = np.arange(1, feature.buckets) / feature.buckets
            np.testing.assert_allclose(shares, wanted, atol=0.05)
    np.testing.assert_array_equal(learned["item_constant"], [4.5, 0])


def encoded(name, values, learned):
    """Encodes things (N, raw_width) with NumPy and what was learned."""
    feature = LEARNED[name]
    if feature.kind == "vocabulary":
        index = {value: n + 1 for n, value in enumerate(learned[name].tolist())}
        index[0] = 0
        unseen = len(learned[name]) + 1
        flat = [index.get(value, unseen) for value in values.ravel().tolist()]
        return np.array(flat, np.int64).reshape(values.shape)
    if feature.kind == "hashed":
        return encodings.hashed_index(values, feature.hashed).numpy()
    if feature.kind == "buckets":
        below = (values[..., None] >= learned[name]).sum(-1)
        return np.where(np.isnan(values), 0, 1 + below)
    if feature.kind == "vector":
        known = ~np.isnan(values[:, :1])
        return np.concatenate([np.where(known, values, 0), known], 1)
    known = ~np.isnan(values)
    numbers = np.where(known, values, 0).astype(np.float64)
    if feature.log:
        numbers = np.sign(numbers) * np.log1p(np.abs(numbers))
    mean, scale = learned[name].astype(np.float64)
    numbers = (numbers - mean) / scale if scale else np.zeros_like(numbers)
    return np.concatenate([np.where(known, numbers, 0), known], 1)


def kept(row):
    """Places of the newest real behaviors."""
    return np.flatnonzero(row["behavior_item_ids"])[-MAX_HISTORY:]


@pytest.mark.parametrize("split", ["train", "other"])
def test_transformed_values(world, learned, split):
    rows, found = world[:2] if split == "train" else world[2:4]
    for row, one in zip(rows, found, strict=True):
        wanted = {
            name: row[name]
            for name in (
                "user_id",
                "candidate_item_ids",
                "clicks",
                "label_order",
                "weights",
            )
        }
        wanted["behavior_item_ids"] = row["behavior_item_ids"][kept(row)]
        for place, name in PLACES.items():
            values = encoded(name, row[place], learned)
            if place.startswith("behavior_"):
                values = values[kept(row)]
            assert values.shape[1] == LEARNED[name].width
            wanted[place] = values.ravel()
        for name in DECLARED.matches:
            behaviors, candidates = (
                encoded(f"item_{name}", row[f"{group}_{name}"], learned)
                for group in ("behavior", "candidate")
            )
            behaviors = behaviors[kept(row)]
            wanted[f"candidate_{name}_matches"] = [
                float(sum((behaviors == value).sum() for value in own if value))
                for own in candidates
            ]
        assert one.keys() == wanted.keys()
        for name, values in wanted.items():
            np.testing.assert_allclose(
                one[name], values, rtol=1e-5, atol=1e-5, err_msg=name
            )


def test_the_graph_and_the_encodings_agree_exactly(world, learned):
    """As the exported signatures encode: from `read_learned`, bit by bit."""
    _, _, rows, _, output = world
    layer = output.transform_features_layer()
    for row in rows:
        batch = {
            name: tf.sparse.from_dense(values.reshape(1, -1))
            if 0 not in values
            else tf.RaggedTensor.from_tensor(
                tf.constant(values.reshape(1, -1))
            ).to_sparse()
            for name, values in row.items()
        }
        found = layer(batch)
        for place, name in PLACES.items():
            feature = LEARNED[name]
            values = row[place]
            if place.startswith("behavior_"):
                values = values[kept(row)]
            if feature.kind == "number":
                wanted = encodings.standardized(
                    values, *learned[name], feature.log
                )
            elif feature.kind == "buckets":
                wanted = encodings.bucket_index(values, learned[name])
            elif feature.kind == "vector":
                wanted = encodings.flagged(values)
            else:
                continue
            got = found[place]
            if isinstance(got, tf.SparseTensor):
                got = got.values
            np.testing.assert_array_equal(
                np.ravel(got), np.ravel(wanted), err_msg=place
            )


def test_what_requests_lack_is_missing(world):
    """A served Example has nothing that only training knows."""
    _, _, (_, row, *_), _, output = world
    batch = {
        name: tf.RaggedTensor.from_tensor(
            tf.constant(values.reshape(1, -1))
        ).to_sparse()
        for name, values in row.items()
    }
    nothing = tf.zeros([1, 0], tf.int64)
    batch["candidate_position"] = tf.sparse.from_dense(nothing)
    found = output.transform_features_layer()(batch)["candidate_position"]
    assert found.values.numpy().tolist() == [0] * len(row["clicks"])
