"""Batches of transformed requests: values, weights and order."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from schemas.ranking_schema import RankingSchema
from tests.tfx_pipeline.training import toy_training
from tests.tfx_pipeline.training.toy_training import DECLARED, USER_PROFILE
from tfx_pipeline.training import input_fn, records

pytestmark = pytest.mark.tf

REQUESTS = 23


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return toy_training.write_requests(
        tmp_path_factory.mktemp("requests"), REQUESTS, files=3
    )


def dataset(data, batch=4, **options):
    return input_fn.request_dataset(
        [data[0]], toy_training.SPEC, batch, **options
    )


def users(batches):
    """Returns the users of each batch."""
    return [batch["user_id"].numpy()[:, 0].tolist() for batch in batches]


def test_inputs_clicks_and_weights_are_those_of_the_requests(data):
    by_user = {one["user_id"][0]: one for one in data[1]}
    columns = {
        ("behavior_item_ids", None): "behavior_item_ids",
        ("behavior_features", 0): "behavior_category",
        ("candidate_item_ids", None): "candidate_item_ids",
        ("candidate_features", 0): "candidate_category",
        ("candidate_features", 1): "candidate_city",
        ("candidate_features", 2): "candidate_province",
        ("candidate_matches", 0): "candidate_category_matches",
    }
    seen = 0
    for batch in dataset(data):
        inputs, clicks, weights = input_fn.training_batch(batch, DECLARED)
        (shown,) = users([batch])
        seen += len(shown)
        requests = [by_user[user] for user in shown]
        counts = [len(one["clicks"]) for one in requests]
        width = max(counts)
        assert clicks.shape == weights.shape == (len(shown), width)
        for row, (one, count) in enumerate(zip(requests, counts, strict=True)):
            for (name, place), source in columns.items():
                values = inputs[name].numpy()[row]
                if place is not None:
                    values = values[:, place]
                values = values.tolist()
                wanted = one[source]
                assert values[: len(wanted)] == wanted
                assert not any(values[len(wanted) :])
            assert inputs["user_features"].numpy()[row].tolist() == [
                one[name][0] for name in USER_PROFILE
            ]
            assert clicks.numpy()[row, :count].tolist() == one["clicks"]
            mask = inputs["candidate_mask"].numpy()[row]
            assert mask.tolist() == [True] * count + [False] * (width - count)
        # The weights average 1 over the batch and are equal on real ones.
        weights = weights.numpy()
        assert weights.mean() == pytest.approx(1.0)
        real = inputs["candidate_mask"].numpy()
        assert (weights[~real] == 0).all()
        assert len(np.unique(weights[real])) == 1
        # So a weighted mean over (B, C) is the mean over real impressions.
        losses = np.random.default_rng(seen).normal(size=real.shape)
        assert (losses * weights).mean() == pytest.approx(losses[real].mean())
    assert seen == REQUESTS


def test_every_request_comes_once_an_epoch(data):
    for shuffle in (0, 5, 100):
        order = np.concatenate(
            users(dataset(data, shuffle_requests=shuffle, epochs=3, seed=2))
        )
        assert len(order) == 3 * REQUESTS
        for epoch in order.reshape(3, REQUESTS):
            assert sorted(epoch.tolist()) == list(range(1, REQUESTS + 1))
    assert records.count_records([data[0]]) == REQUESTS


def test_order_is_a_function_of_the_seed(data):
    options = {"shuffle_requests": 100, "epochs": 2}
    one = dataset(data, seed=5, **options)
    first = users(one)
    # Iterated again, peeked into, and built again: the same.
    next(iter(one))
    assert users(one) == first
    assert users(dataset(data, seed=5, **options)) == first
    assert users(dataset(data, seed=6, **options)) != first
    epochs = np.concatenate(first).reshape(2, REQUESTS)
    assert (epochs[0] != epochs[1]).any()


def test_without_shuffling_the_order_is_that_of_the_files(data):
    first = np.concatenate(users(dataset(data))).tolist()
    assert first == np.concatenate(users(dataset(data, seed=9))).tolist()


@pytest.mark.parametrize("done", [1, 5, 6, 11, 12, 17])
def test_skipping_resumes_exactly(data, done):
    options = {"shuffle_requests": 7, "epochs": 3, "seed": 3}
    whole = users(dataset(data, **options))
    assert len(whole) == 18
    rest = dataset(data, skip_batches=done, **options)
    # Keras looks at the first batch before it trains.
    next(iter(rest))
    assert users(rest) == whole[done:]


@pytest.mark.parametrize("count", [2, 3, 5])  # Of 3 files; 5: of records.
def test_shards_are_parts_of_the_files_in_order(data, count):
    parts = [
        np.concatenate(users(dataset(data, shard=records.Shard(i, count))))
        for i in range(count)
    ]
    assert sorted(np.concatenate(parts)) == list(range(1, REQUESTS + 1))
    for index, part in enumerate(parts):
        shard = records.Shard(index, count)
        assert records.count_records([data[0]], shard) == len(part)
        if count <= 3:
            files = {(user - 1) % 3 for user in part.tolist()}
            assert files == set(range(index, 3, count))


def test_joined_shards_have_a_part_of_each_and_then_nothing(data):
    shards = [records.Shard(i, 2) for i in range(2)]
    single = [
        input_fn.ranking_dataset(
            dataset(data, batch=3, shard=shard, shuffle_requests=9, seed=4),
            3,
            DECLARED,
            normalize=False,
        )
        for shard in shards
    ]
    parts = [[*part] for part in single]
    assert [len(part) for part in parts] == [5, 3]  # 15 requests and 8.
    joined = [*input_fn.joined(single).take(7)]
    for number, (inputs, labels, weights) in enumerate(joined):
        assert len(labels) == 6
        for place, part in enumerate(parts):
            rows = slice(3 * place, 3 * place + 3)
            values = {**inputs, "labels": labels, "weights": weights}
            if number >= len(part):
                assert not any(
                    values[name][rows].numpy().any() for name in values
                )
                continue
            wanted = part[number]
            wanted = {**wanted[0], "labels": wanted[1], "weights": wanted[2]}
            for name, value in values.items():
                found = value.numpy()[rows]
                width = wanted[name].shape[1]
                np.testing.assert_array_equal(found[:, :width], wanted[name])
                assert not found[:, width:].any()


def test_a_candidate_without_an_id_is_no_padding(tmp_path):
    """A candidate counts because it has a label, whatever its id."""
    given = {
        "user_id": [1],
        **{name: [1] for name in USER_PROFILE},
        "behavior_item_ids": [3],
        "behavior_category": [2],
        "candidate_item_ids": [0, 7],
        "candidate_category": [1, 2],
        "candidate_city": [1, 1],
        "candidate_province": [1, 1],
        "candidate_category_matches": [0.0, 1.0],
        "clicks": [0, 1],
    }
    longer = toy_training.request(np.random.default_rng(0), 2)
    longer |= {name: [1, 1, 1] for name in longer if "candidate" in name}
    longer |= {"candidate_category_matches": [1.0] * 3, "clicks": [1, 0, 1]}
    with tf.io.TFRecordWriter(str(tmp_path / "one"), options="GZIP") as writer:
        for one in (given, longer):
            writer.write(toy_training.example(one))
    (batch,) = input_fn.request_dataset(
        [str(tmp_path / "one")], toy_training.SPEC, 2
    )
    inputs, clicks, weights = input_fn.training_batch(batch, DECLARED)
    assert inputs["candidate_mask"].numpy().tolist() == [
        [True, True, False],
        [True, True, True],
    ]
    assert clicks.numpy().tolist() == [[0, 1, 0], [1, 0, 1]]
    np.testing.assert_allclose(weights, [[1.2, 1.2, 0], [1.2] * 3], rtol=1e-6)


def test_the_last_batch_is_filled_up_with_empty_requests(data):
    requests = dataset(data, batch=5, shuffle_requests=9, epochs=1, seed=1)
    plain = [input_fn.training_batch(batch, DECLARED) for batch in requests]
    filled = list(input_fn.ranking_dataset(requests, 5, DECLARED))
    assert [len(clicks) for _, clicks, _ in plain] == [5, 5, 5, 5, 3]
    assert len(filled) == len(plain)
    for (inputs, *rest), (wanted, *wanted_rest) in zip(
        filled, plain, strict=True
    ):
        real = len(wanted_rest[0])
        assert inputs.keys() == wanted.keys()
        for name in wanted:
            values = inputs[name].numpy()
            np.testing.assert_array_equal(values[:real], wanted[name])
            assert len(values) == 5 and not values[real:].any()
        clicks, weights = (values.numpy() for values in rest)
        np.testing.assert_array_equal(clicks[:real], wanted_rest[0])
        assert not clicks[real:].any() and not weights[real:].any()
        assert weights.mean() == pytest.approx(1.0)
        mask = wanted["candidate_mask"].numpy()
        losses = np.random.default_rng(real).normal(size=weights.shape)
        assert (losses * weights).mean() == pytest.approx(
            losses[:real][mask].mean()
        )


def test_labels_weights_and_columns_of_declared_features(tmp_path):
    declared = RankingSchema.model_validate(
        {
            "name": "toy",
            "labels": {"click": {}, "buy": {"loss_weight": 3}},
            "weight": "counts_as",
            "features": {
                "user": {"age": {"type": "float"}},
                "item": {"brand": {}, "tags": {"many": 2}},
                "candidate": {"position": {"training_only": True}},
            },
        }
    )
    rng = np.random.default_rng(3)
    requests = []
    for count in (2, 4, 1):
        requests.append(
            {
                "user_age": [0.5, 1.0],
                "behavior_item_ids": [3] * count,
                "candidate_item_ids": [*range(1, count + 1)],
                "candidate_brand": rng.integers(1, 5, count).tolist(),
                "candidate_tags": rng.integers(0, 5, 2 * count).tolist(),
                "candidate_position": [*range(1, count + 1)],
                "clicks": rng.integers(0, 2, count).tolist(),
                "label_buy": rng.integers(0, 2, count).tolist(),
                "weights": rng.uniform(0.5, 4, count).tolist(),
            }
        )
    floats = ("user_age", "weights")
    with tf.io.TFRecordWriter(str(tmp_path / "one"), options="GZIP") as writer:
        for one in requests:
            message = tf.train.Example()
            for name, values in one.items():
                kind = "float_list" if name in floats else "int64_list"
                held = getattr(message.features.feature[name], kind)
                held.value.extend(values)
            writer.write(message.SerializeToString())
    spec = {
        name: tf.io.VarLenFeature(tf.float32 if name in floats else tf.int64)
        for name in requests[0]
    }
    (batch,) = input_fn.request_dataset([str(tmp_path / "one")], spec, 3)
    for rows in (0, 5):  # Also filled up with empty requests.
        inputs, labels, weights = (
            tf.nest.map_structure(np.asarray, part)
            for part in input_fn.training_batch(batch, declared, rows)
        )
        assert labels.shape == weights.shape == (rows or 3, 4, 2)
        assert weights.mean() == pytest.approx(1.0)
        total = sum(sum(one["weights"]) for one in requests)
        slots = weights.size / 2
        for row, one in enumerate(requests):
            count = len(one["clicks"])
            for place, name in enumerate(("clicks", "label_buy")):
                assert labels[row, :count, place].tolist() == one[name]
                # A buy counts three times a click, and both 1 on average.
                np.testing.assert_allclose(
                    weights[row, :count, place],
                    np.multiply(
                        one["weights"], slots / total * (0.5, 1.5)[place]
                    ),
                    rtol=1e-6,
                )
            assert not labels[row, count:].any()
            assert not weights[row, count:].any()
            features = inputs["candidate_features"][row, :count]
            assert features[:, 0].tolist() == one["candidate_brand"]
            assert features[:, 1:].ravel().tolist() == one["candidate_tags"]
            positions = inputs["context_features"][row, :count, 0]
            assert positions.tolist() == one["candidate_position"]
            assert inputs["user_numbers"][row].tolist() == one["user_age"]
        assert not labels[3:].any() and not weights[3:].any()
