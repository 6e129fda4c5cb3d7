"""A small catalog with clicks, and the method once more in NumPy."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import tensorflow as tf

from muse_keras.tables import ItemTable

DIM = 8
HALF_LIFE, POPULARITY_WEIGHT, REPEAT_WEIGHT = 3.0, 0.2, 0.4
MAX_BEHAVIORS = 6
LOWEST, HIGHEST = -(2**63), 2**63 - 1


@dataclasses.dataclass(frozen=True)
class Request:
    user: int
    history: list[int]
    candidates: list[int]
    clicks: list[int]


@dataclasses.dataclass(frozen=True)
class World:
    table: ItemTable
    train: list[Request]
    eval: list[Request]

    def item_ids(self) -> np.ndarray:
        """Items with a vector."""
        known = np.abs(self.table.codes[1:].astype(int)).sum(1) > 0
        return np.asarray(self.table.item_ids)[known]

    def vectors(self) -> np.ndarray:
        codes = self.table.codes[self.table.rows(self.item_ids())]
        codes = codes.astype(np.float64)
        return codes / np.linalg.norm(codes, axis=1, keepdims=True)

    def clicked(self, requests: list[Request]) -> list[tuple[int, int]]:
        return [
            (request.user, item)
            for request in requests
            for item, click in zip(
                request.candidates, request.clicks, strict=True
            )
            if click
        ]

    def popularity(self) -> np.ndarray:
        items = [item for _, item in self.clicked(self.train)]
        logs = np.array([np.log(1 + items.count(i)) for i in self.item_ids()])
        return logs / logs.max()

    def query(self, history: list[int]) -> np.ndarray:
        """Unit vector of a user, or zeros."""
        vectors = dict(zip(self.item_ids(), self.vectors(), strict=True))
        newest = [item for item in history if item][-MAX_BEHAVIORS:]
        total = np.zeros(DIM)
        for age, item in enumerate(reversed(newest)):
            total += 0.5 ** (age / HALF_LIFE) * vectors.get(item, np.zeros(DIM))
        norm = np.linalg.norm(total)
        return total / norm if norm else total

    def scores(self, history: list[int]) -> np.ndarray:
        """Score of every item of `item_ids`."""
        newest = [item for item in history if item][-MAX_BEHAVIORS:]
        repeats = [newest.count(item) for item in self.item_ids()]
        return (
            self.vectors() @ self.query(history)
            + POPULARITY_WEIGHT * self.popularity()
            + REPEAT_WEIGHT * np.log1p(repeats)
        )


def make_world(folder: pathlib.Path, items: int = 60) -> World:
    rng = np.random.default_rng(5)
    ids = np.unique(rng.integers(-(2**62), 2**62, items))
    ids = np.concatenate([[LOWEST], ids, [HIGHEST], [7, 2**31 + 1]])
    codes = rng.integers(-127, 128, (len(ids), DIM)).astype(np.int8)
    codes[5:9] = 0
    zeros = np.zeros(len(ids), np.int64)
    features = dict.fromkeys(("category", "city", "province"), zeros)
    table = ItemTable.write(folder / "table", ids, codes, features, "test")

    def requests(count: int, first_user: int) -> list[Request]:
        made = []
        for user in range(first_user, first_user + count):
            history = rng.choice(ids, rng.integers(0, 12)).tolist()
            history += history[:3]
            history.insert(len(history) // 2, 0)
            for _ in range(rng.integers(1, 3)):
                candidates = rng.choice(ids[:30], 5).tolist()
                clicks = (rng.random(5) < 0.4).astype(int).tolist()
                if history and user % 2:
                    candidates[0], clicks[0] = history[-1], 1
                made.append(Request(user, history, candidates, clicks))
        # An item without a vector, which no search finds.
        made.append(Request(first_user, made[0].history, [99], [1]))
        return made

    world = World(table, requests(40, 100), requests(30, 120))
    for split, some in (("train", world.train), ("eval", world.eval)):
        write_requests(folder / "examples" / f"Split-{split}", some)
    return world


def write_requests(folder: pathlib.Path, requests: list[Request]) -> None:
    folder.mkdir(parents=True)
    for number in range(2):
        with tf.io.TFRecordWriter(
            str(folder / f"data-{number}.gz"), tf.io.TFRecordOptions("GZIP")
        ) as writer:
            for request in requests[number::2]:
                values = {
                    "user_id": [request.user],
                    "behavior_item_ids": request.history,
                    "candidate_item_ids": request.candidates,
                    "clicks": request.clicks,
                }
                features = {
                    name: tf.train.Feature(
                        int64_list=tf.train.Int64List(value=ints)
                    )
                    for name, ints in values.items()
                }
                example = tf.train.Example(
                    features=tf.train.Features(feature=features)
                )
                writer.write(example.SerializeToString())
