"""Transformed requests and items to train small models on."""

from __future__ import annotations

import pathlib

import numpy as np
import tensorflow as tf

from muse_keras.tables import ItemTable

ITEMS = np.arange(1, 21) * 1_000_003
VOCABULARIES = {
    **{f"user_profile_{i}": np.arange(1, 4) for i in range(1, 6)},
    "category": np.arange(1, 7),
    "city": np.arange(1, 3),
    "province": np.arange(1, 3),
}
_LISTS = {
    "user_id": tf.int64,
    "behavior_item_ids": tf.int64,
    "behavior_categories": tf.int64,
    "candidate_item_ids": tf.int64,
    "candidate_categories": tf.int64,
    "candidate_cities": tf.int64,
    "candidate_provinces": tf.int64,
    "candidate_category_matches": tf.float32,
    "clicks": tf.int64,
}
SPEC = {
    "user_profile": tf.io.FixedLenFeature([5], tf.int64),
    **{name: tf.io.VarLenFeature(dtype) for name, dtype in _LISTS.items()},
}


def request(rng: np.random.Generator, user: int) -> dict[str, list]:
    """Returns the transformed features of one random request."""
    length, candidates = rng.integers(0, 9), rng.integers(1, 6)
    return {
        "user_id": [user],
        "user_profile": rng.integers(0, 5, 5).tolist(),
        "behavior_item_ids": rng.choice(ITEMS, length).tolist(),
        "behavior_categories": rng.integers(1, 8, length).tolist(),
        # Some candidates are not in the table.
        "candidate_item_ids": (rng.choice([*ITEMS, 5, 6], candidates).tolist()),
        "candidate_categories": rng.integers(0, 8, candidates).tolist(),
        "candidate_cities": rng.integers(0, 4, candidates).tolist(),
        "candidate_provinces": rng.integers(0, 4, candidates).tolist(),
        "candidate_category_matches": (
            rng.integers(0, 5, candidates).astype(float).tolist()
        ),
        "clicks": rng.integers(0, 2, candidates).tolist(),
    }


def write_requests(
    folder: pathlib.Path, count: int, files: int = 2, seed: int = 1
) -> tuple[str, list[dict[str, list]]]:
    """Writes requests; returns the pattern of the files and the requests."""
    rng = np.random.default_rng(seed)
    requests = [request(rng, user) for user in range(1, count + 1)]
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        with tf.io.TFRecordWriter(
            str(folder / f"part-{number}.gz"), options="GZIP"
        ) as writer:
            for one in requests[number::files]:
                writer.write(example(one))
    return str(folder / "*"), requests


def example(one: dict[str, list]) -> bytes:
    """Returns a request as a serialized Example."""
    message = tf.train.Example()
    for name, values in one.items():
        feature = message.features.feature[name]
        if name == "candidate_category_matches":
            feature.float_list.value.extend(values)
        else:
            feature.int64_list.value.extend(values)
    return message.SerializeToString()


def write_items(folder: pathlib.Path, dim: int = 8) -> ItemTable:
    """Writes the item table of `ITEMS`; one item has no vector."""
    rng = np.random.default_rng(2)
    codes = rng.integers(-90, 91, (len(ITEMS), dim)).astype(np.int8)
    codes[3] = 0
    columns = {
        name: rng.integers(1, 5, len(ITEMS))
        for name in ("category", "city", "province")
    }
    return ItemTable.write(folder, ITEMS, codes, columns, source="test")


class Transform:
    """Stands for Transform's output."""

    def __init__(self, graph):
        self.graph = graph

    def transformed_feature_spec(self):
        return SPEC
