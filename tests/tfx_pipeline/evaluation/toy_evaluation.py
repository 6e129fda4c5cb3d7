"""A model whose score is written in the candidate's id, and its requests."""

from __future__ import annotations

import pathlib

import numpy as np
import tensorflow as tf


class Ranker(tf.Module):
    """Scores item id n with n / 1000, or with 1 - n / 1000."""

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
        return {"click_probability": scores}


def save_model(folder: pathlib.Path, upside_down: bool = False) -> None:
    """Writes the SavedModel."""
    model = Ranker(upside_down)
    tf.saved_model.save(
        model,
        str(folder),
        signatures={"serving_default": model.serving_default},
    )


def random_requests(rng: np.random.Generator) -> list[dict[str, list[int]]]:
    """Returns requests of 12 users, each in up to four of them.

    Scores tie often; some users only click, some never.
    """
    requests = []
    for user in range(-6, 6):
        for _ in range(rng.integers(1, 5)):
            count = rng.integers(1, 7)
            clicks = rng.integers(0, 2, count)
            if user in (-6, -5):
                clicks[:] = user == -6
            length = rng.choice([0, 99, 100, 299, 300, 1000, 1200])
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
                }
            )
    return [requests[i] for i in rng.permutation(len(requests))]


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
                    example.features.feature[name].int64_list.value.extend(
                        values
                    )
                writer.write(example.SerializeToString())


def impressions(requests: list[dict]) -> list[tuple[int, int, float, int, int]]:
    """Returns (user, click, score, history length, popularity) of each."""
    return [
        (
            request["user_id"][0],
            click,
            float(np.float32(item) / np.float32(1000)),
            sum(1 for i in request["behavior_item_ids"] if i),
            popularity,
        )
        for request in requests
        for item, popularity, click in zip(
            request["candidate_item_ids"],
            request["candidate_popularity"],
            request["clicks"],
            strict=True,
        )
    ]
