"""What cells are prepared from: shorter histories, worse vectors."""

import numpy as np
import pytest
import tensorflow as tf

from muse_keras.tables import ItemTable
from muse_tools.compare import data
from muse_tools.compare.impressions import Impressions
from tests.tfx_pipeline.training import toy_training

pytestmark = pytest.mark.tf

CATEGORIES = 8


def read(pattern):
    """Returns requests as lists, by user."""
    found = {}
    for path in tf.io.gfile.glob(pattern):
        for record in tf.data.TFRecordDataset(path, "GZIP"):
            example = tf.train.Example.FromString(record.numpy())
            one = {
                name: list(feature.float_list.value or feature.int64_list.value)
                for name, feature in example.features.feature.items()
            }
            found[one["user_id"][0]] = one
    return found


def shortened(one, length):
    """Returns a request with its newest behaviors, counted in Python."""
    categories = one["behavior_category"][-length:]
    return {
        **one,
        "behavior_item_ids": one["behavior_item_ids"][-length:],
        "behavior_category": categories,
        "candidate_category_matches": [
            float(categories.count(category)) if category else 0.0
            for category in one["candidate_category"]
        ],
    }


@pytest.mark.parametrize("length", [3, 50])
def test_shorter_histories(tmp_path, length):
    pattern, requests = toy_training.write_requests(tmp_path / "all", 30)
    target = tmp_path / "short" / "train.gz"
    matches = {"category": (CATEGORIES, 0)}
    data.write_shorter([pattern], toy_training.SPEC, length, matches, target)
    found = read(str(target))
    assert found == {
        one["user_id"][0]: shortened(one, length) for one in requests
    }
    assert [path.name for path in target.parent.iterdir()] == ["train.gz"]


def test_impressions_follow_the_requests(tmp_path):
    train, shown = toy_training.write_requests(tmp_path / "train", 25)
    test, asked = toy_training.write_requests(tmp_path / "eval", 9, seed=4)
    found = data.read_impressions([train], [test], toy_training.SPEC)
    items = [item for one in shown for item in one["candidate_item_ids"]]
    wanted = {
        one["user_id"][0]: [
            (
                click,
                len(one["behavior_item_ids"]),
                items.count(item),
                one["behavior_item_ids"].count(item),
            )
            for click, item in zip(
                one["clicks"], one["candidate_item_ids"], strict=True
            )
        ]
        for one in asked
    }
    by_user = {}
    for user, *rest in zip(*found, strict=True):
        by_user.setdefault(int(user), []).append(tuple(map(int, rest)))
    assert by_user == wanted
    found.save(tmp_path / "impressions.npz")
    again = Impressions.load(tmp_path / "impressions.npz")
    for name in Impressions._fields:
        np.testing.assert_array_equal(
            getattr(again, name), getattr(found, name)
        )


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Items of which some have equal vectors, and one has none."""
    rng = np.random.default_rng(0)
    codes = rng.integers(-90, 91, (400, 128)).astype(np.int8)
    codes[200:] = codes[:200]
    codes[7] = codes[300] = 0
    ids = np.arange(1, 401) * 11
    return ItemTable.write(
        tmp_path_factory.mktemp("items") / "base",
        ids,
        codes,
        {name: ids % 5 for name in ("category", "city", "province")},
        source="test",
    )


def cosines(one, other, rows, other_rows):
    def unit(table, chosen):
        values = np.asarray(table.codes[1:][chosen], float)
        return values / np.linalg.norm(values, axis=1, keepdims=True)

    return (unit(one, rows) * unit(other, other_rows)).sum(axis=1)


REAL = np.setdiff1d(np.arange(200), [7, 100])


@pytest.mark.parametrize(
    ("name", "cosine"),
    [
        ("noise:0.5", 1 / np.sqrt(1.25)),
        ("item_noise:2", 1 / np.sqrt(5)),
        ("random", 0.0),
    ],
)
def test_worse_vectors(base, tmp_path, name, cosine):
    made = data.changed_vectors(base, name, tmp_path / "made")
    found = cosines(base, made, REAL, REAL)
    assert found.mean() == pytest.approx(cosine, abs=0.02)
    # Twins stay twins, unless the noise is the item's own.
    twins = cosines(made, made, REAL, REAL + 200)
    if name.startswith("item_"):
        assert twins.mean() == pytest.approx(0.2, abs=0.03)
    else:
        np.testing.assert_allclose(twins, 1.0)
    norms = np.linalg.norm(np.asarray(made.codes, float), axis=1)
    assert norms[[0, 8, 301]].tolist() == [0, 0, 0]
    assert norms[1:][REAL].min() > 120
    np.testing.assert_array_equal(made.item_ids, base.item_ids)
    for key, values in base.features.items():
        np.testing.assert_array_equal(made.features[key], values)


def test_the_same_noise_every_time(base, tmp_path):
    one = data.changed_vectors(base, "noise:1", tmp_path / "one")
    two = data.changed_vectors(base, "noise:1", tmp_path / "two")
    assert one.manifest["files"] == two.manifest["files"]
