"""What the examples learn from: made-up requests in NumPy arrays.

Items belong to styles, and the multimodal vector of an item shows its style.
Each user likes two styles. Most items of the history are of these, and a
candidate of these is clicked more often. The arrays have the names and shapes
that `muse_keras.models.MUSE` takes; put your own in their place.
"""

from typing import NamedTuple

import numpy as np

ITEMS, STYLES, DIM = 2_000, 24, 32
LENGTH, CANDIDATES = 40, 4
CATEGORIES = STYLES // 4 + 2
TAGS = 9
# What a model is told of the features: names, and how many values each has.
FEATURES = {
    "user_sizes": {"age": 8, "income": 6},
    "item_sizes": {"category": CATEGORIES, "brand": 10, "price": 5},
    "behavior_features": ("category",),
    "matches": ("category",),
}


class Requests(NamedTuple):
    """Requests and what became of them.

    Attributes:
        inputs: dict of arrays, see `muse_keras.models.BaseRanker`.
        clicks: float32 (users, candidates), 0 or 1; with a last axis of
            labels if there are several.
    """

    inputs: dict[str, np.ndarray]
    clicks: np.ndarray


def item_vectors() -> np.ndarray:
    """Unit vectors of all items, float32 (ITEMS + 1, DIM); row 0 is none."""
    rng = np.random.default_rng(1)
    centers = rng.normal(size=(STYLES, DIM))
    vectors = centers[np.arange(ITEMS) % STYLES]
    vectors = vectors + 0.4 * rng.normal(size=vectors.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.concatenate([np.zeros((1, DIM)), vectors]).astype("float32")


def requests(users: int, seed: int, liking: float = 0.7) -> Requests:
    """Make requests.

    Args:
        users: how many; one request each.
        seed: of the random numbers.
        liking: how likely an item of a style that the user likes is clicked.
    """
    rng = np.random.default_rng(seed)
    liked = rng.integers(0, STYLES, (users, 2))

    def draw(count: int, share: float) -> np.ndarray:
        own = np.take_along_axis(liked, rng.integers(0, 2, (users, count)), 1)
        other = rng.integers(0, STYLES, (users, count))
        style = np.where(rng.random((users, count)) < share, own, other)
        return 1 + style + STYLES * rng.integers(0, ITEMS // STYLES, own.shape)

    def index(name: str, *shape: int) -> np.ndarray:
        size = (FEATURES["user_sizes"] | FEATURES["item_sizes"])[name]
        return rng.integers(1, size, (users, *shape)).astype("int32")

    history, listed = draw(LENGTH, 0.6), draw(CANDIDATES, 0.4)
    lengths = rng.integers(5, LENGTH + 1, (users, 1))
    mask = np.arange(LENGTH) >= LENGTH - lengths  # padding in front
    likes = ((listed - 1) % STYLES)[:, :, None] == liked[:, None, :]
    chance = np.where(likes.any(axis=2), liking, 0.1)
    matches = category(listed)[:, :, None] == category(history)[:, None, :]
    inputs = {
        "user_features": np.stack([index("age"), index("income")], axis=1),
        "behavior_rows": np.where(mask, history, 0).astype("int32"),
        "behavior_features": np.where(mask, category(history), 0)[
            :, :, None
        ].astype("int32"),
        "behavior_mask": mask,
        "candidate_rows": listed.astype("int32"),
        "candidate_features": np.stack(
            [
                category(listed).astype("int32"),
                index("brand", CANDIDATES),
                index("price", CANDIDATES),
            ],
            axis=2,
        ),
        "candidate_matches": (matches & mask[:, None, :])
        .sum(axis=2)[:, :, None]
        .astype("float32"),
    }
    clicks = (rng.random(chance.shape) < chance).astype("float32")
    return Requests(inputs, clicks)


def requests_with_own_features(users: int, seed: int) -> Requests:
    """Make requests with further features and a second label.

    What is clicked is also bought, mostly if it is cheap or on sale (tag 1)
    and the device is a desktop (1). Labels are (users, candidates, 2).
    """
    inputs, clicks = requests(users, seed)
    rng = np.random.default_rng(1)
    tags = rng.integers(0, TAGS, (ITEMS + 1, 3)).astype("int32")
    price = rng.normal(size=ITEMS + 1).astype("float32")  # standardized
    rng = np.random.default_rng(seed)
    shown = inputs["candidate_rows"]
    device = rng.integers(1, 3, (users, 1)) + np.zeros_like(shown)
    action = rng.integers(1, 4, inputs["behavior_rows"].shape)
    inputs["behavior_features"] = np.concatenate(
        [inputs["behavior_features"], action[:, :, None].astype("int32")], 2
    )
    inputs["candidate_features"] = np.concatenate(
        [inputs["candidate_features"][:, :, :1], tags[shown]], 2
    )
    known = np.ones_like(price)  # 0 where an item has no price
    inputs["candidate_numbers"] = np.stack([price, known], 1)[shown]
    inputs["context_features"] = device[:, :, None].astype("int32")
    wanted = (price[shown] < 0) | (tags[shown] == 1).any(axis=2)
    chance = np.where(wanted, 0.9, 0.1) * np.where(device == 1, 1.0, 0.5)
    buys = clicks * (rng.random(chance.shape) < chance)
    return Requests(inputs, np.stack([clicks, buys], 2).astype("float32"))


def category(rows: np.ndarray) -> np.ndarray:
    """The category of items: four styles share one."""
    return 1 + ((rows - 1) % STYLES) // 4


def auc(clicks: np.ndarray, scores: np.ndarray) -> float:
    """How often a clicked candidate scores above one that was not."""
    clicks, scores = np.ravel(clicks), np.ravel(scores)
    won = np.sign(scores[clicks == 1][:, None] - scores[clicks == 0])
    return float((won.mean() + 1.0) / 2.0)
