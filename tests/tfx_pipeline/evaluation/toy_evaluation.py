"""A model whose scores are written in the candidate's id, and its requests."""

from __future__ import annotations

import math
import pathlib
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from schemas.ranking_schema import RankingSchema

_VECTOR = {"type": "vector", "dim": 3}
DECLARED = RankingSchema.model_validate(
    {
        "name": "shop",
        "labels": {"click": {}, "order": {}, "return": {}},
        "features": {
            "user": {"age": {"type": "float", "buckets": 4}},
            "item": {"topic": {}, "tags": {"many": 2}, "look": _VECTOR},
            "context": {"hour": {"time": "hour"}},
            "behavior": {"topic": {}},
        },
        "log": {
            "train": ["2026-03-01", "2026-03-28"],
            "eval": ["2026-03-29", "2026-03-31"],
        },
    }
)
SLICES = (
    "history_length",
    "item_popularity",
    "user_age",
    "context_hour",
    "item_topic",
    "item_tags",
)


class Ranker(tf.Module):
    """Scores item id n with n / 1000, or with 1 - n / 1000.

    An order has half, and a return a quarter, of that of the item 1000 - n.
    """

    def __init__(self, upside_down: bool):
        super().__init__()
        self.upside_down = upside_down

    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.string, name="examples")]
    )
    def serving_default(self, examples):
        parsed = tf.io.parse_example(
            examples, {"candidate_item_ids": tf.io.VarLenFeature(tf.int64)}
        )
        ids = tf.sparse.to_dense(parsed["candidate_item_ids"])
        scores = tf.cast(ids, tf.float32) / 1000.0
        if self.upside_down:
            scores = 1.0 - scores
        return {
            "click_probability": scores,
            "order_probability": (1.0 - scores) / 2.0,
            "return_probability": (1.0 - scores) / 4.0,
        }


def save_model(folder: pathlib.Path, upside_down: bool = False) -> None:
    """Writes the SavedModel."""
    model = Ranker(upside_down)
    tf.saved_model.save(
        model,
        str(folder),
        signatures={"serving_default": model.serving_default},
    )


def random_requests(
    rng: np.random.Generator,
) -> list[dict[str, list[int] | list[float]]]:
    """Returns requests of 12 users, each in up to four of them.

    Scores tie often; some users only click, some never; nothing is returned.
    Features: `topic` has more values than have a slice each, and a missing
    one, `tags` none to two of them, `age` is a number.
    """
    requests = []
    for user in range(-6, 6):
        for _ in range(rng.integers(1, 5)):
            count = rng.integers(1, 7)
            clicks = rng.integers(0, 2, count)
            if user in (-6, -5):
                clicks[:] = user == -6
            length = rng.choice([0, 99, 100, 299, 300, 1000, 1200])
            topics = rng.choice(np.arange(40), count, p=_SHARES).tolist()
            tags = rng.integers(0, 4, (count, 2))
            tags[tags[:, 0] == 0] = 0
            requests.append(
                {
                    "user_id": [user],
                    # Padding is no behavior.
                    "behavior_item_ids": [0, 0] + [7] * length + [0],
                    "candidate_item_ids": (
                        rng.integers(1, 10, count) * 100
                    ).tolist(),
                    "candidate_popularity": (
                        rng.choice([0, 1, 9, 10, 99, 100, 5000], count)
                    ).tolist(),
                    "clicks": clicks.tolist(),
                    "label_order": rng.integers(0, 2, count).tolist(),
                    "label_return": [0] * count,
                    "user_age": [AGES[user]],
                    "context_hour": [int(rng.integers(1, 25))] * count,
                    "candidate_topic": topics,
                    "candidate_tags": tags.ravel().tolist(),
                }
            )
    return [requests[i] for i in rng.permutation(len(requests))]


AGES = {user: 20.5 + 3 * user for user in range(-6, 5)} | {5: math.nan}
_SHARES = np.r_[30, 1:40] / (30 + np.arange(1, 40).sum())


def write_requests(folder: pathlib.Path, requests: list[dict]) -> None:
    """Writes request-grouped Examples in two files."""
    folder.mkdir(parents=True)
    for number in range(2):
        with tf.io.TFRecordWriter(
            str(folder / f"data-{number}.gz"), options="GZIP"
        ) as writer:
            for request in requests[number::2]:
                example = tf.train.Example()
                for name, values in request.items():
                    feature = example.features.feature[name]
                    if any(isinstance(value, float) for value in values):
                        feature.float_list.value.extend(values)
                    else:
                        feature.int64_list.value.extend(values)
                writer.write(example.SerializeToString())


class Impression(NamedTuple):
    """What is known of one candidate in one request."""

    user: int
    label: int
    score: float
    history: int
    popularity: int
    age: float
    hour: int
    topic: int
    tags: list[int]


def impressions(requests: list[dict], label: str = "click") -> list[Impression]:
    """Returns the impressions with one of the labels, and its score."""
    column = "clicks" if label == "click" else f"label_{label}"
    return [
        Impression(
            request["user_id"][0],
            request[column][place],
            _score(label, item),
            sum(1 for i in request["behavior_item_ids"] if i),
            request["candidate_popularity"][place],
            request["user_age"][0],
            request["context_hour"][place],
            request["candidate_topic"][place],
            request["candidate_tags"][2 * place : 2 * place + 2],
        )
        for request in requests
        for place, item in enumerate(request["candidate_item_ids"])
    ]


def _score(label: str, item: int) -> float:
    clicked = np.float32(item) / np.float32(1000)
    if label == "click":
        return float(clicked)
    share = {"order": 2, "return": 4}[label]
    return float((np.float32(1) - clicked) / np.float32(share))
