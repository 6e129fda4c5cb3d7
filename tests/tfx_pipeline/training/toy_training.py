"""Transformed requests and items to train small models on."""

from __future__ import annotations

import pathlib

import numpy as np
import tensorflow as tf

from muse_keras.tables import ItemTable
from schemas.ranking_schema import preset

DECLARED = preset("taobao_mm")
USER_PROFILE = [f"user_{name}" for name in DECLARED.features.user]
ITEMS = np.arange(1, 21) * 1_000_003
VOCABULARIES = {
    **dict.fromkeys(USER_PROFILE, np.arange(1, 4)),
    "item_category": np.arange(1, 7),
    "item_city": np.arange(1, 3),
    "item_province": np.arange(1, 3),
}
_LISTS = {
    "user_id": tf.int64,
    "behavior_item_ids": tf.int64,
    "behavior_category": tf.int64,
    "candidate_item_ids": tf.int64,
    "candidate_category": tf.int64,
    "candidate_city": tf.int64,
    "candidate_province": tf.int64,
    "candidate_category_matches": tf.float32,
    "clicks": tf.int64,
}
SPEC = {
    **{name: tf.io.FixedLenFeature([1], tf.int64) for name in USER_PROFILE},
    **{name: tf.io.VarLenFeature(dtype) for name, dtype in _LISTS.items()},
}


def request(rng: np.random.Generator, user: int) -> dict[str, list]:
    """Returns the transformed features of one random request."""
    length, candidates = rng.integers(0, 9), rng.integers(1, 6)
    return {
        "user_id": [user],
        **{name: rng.integers(0, 5, 1).tolist() for name in USER_PROFILE},
        "behavior_item_ids": rng.choice(ITEMS, length).tolist(),
        "behavior_category": rng.integers(1, 8, length).tolist(),
        # Some candidates are not in the table.
        "candidate_item_ids": (rng.choice([*ITEMS, 5, 6], candidates).tolist()),
        "candidate_category": rng.integers(0, 8, candidates).tolist(),
        "candidate_city": rng.integers(0, 4, candidates).tolist(),
        "candidate_province": rng.integers(0, 4, candidates).tolist(),
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
