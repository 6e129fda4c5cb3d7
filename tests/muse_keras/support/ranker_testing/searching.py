"""Requests for searches, and what they should find, in NumPy."""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from muse_keras.models import BehaviorView, CandidateView
from ranker_testing.data import DIM, item_codes
from ranker_testing.oracles import cosine

WIDTH = 6


class Candidates(NamedTuple):
    """The fields of a `CandidateView`, as NumPy arrays."""

    rows: np.ndarray
    vectors: np.ndarray
    embeddings: np.ndarray
    mask: np.ndarray
    queries: np.ndarray
    features: dict[str, np.ndarray]


class Behaviors(NamedTuple):
    """The fields of a `BehaviorView`, as NumPy arrays."""

    rows: np.ndarray
    mask: np.ndarray
    vectors: np.ndarray
    embeddings: np.ndarray
    inverse_norms: np.ndarray
    keys: np.ndarray
    features: dict[str, np.ndarray]


def numpy(value: Any) -> np.ndarray:
    return ops.convert_to_numpy(value)


def views(
    seed: int = 0, batch: int = 2, length: int = 12, candidates: int = 3
) -> tuple[Candidates, Behaviors]:
    """Everything that any search may look at."""
    rng = np.random.default_rng(seed)
    codes = item_codes(rng)

    def floats(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype("float32")

    def index(size: int, *shape: int) -> np.ndarray:
        return rng.integers(0, size, shape).astype("int32")

    def features(*shape: int) -> dict[str, np.ndarray]:
        return {"color": index(5, *shape), "category": index(4, *shape)}

    listed, history = (batch, candidates), (batch, length)
    asked, held = index(len(codes), *listed), index(len(codes), *history)
    norms = np.linalg.norm(codes[held].astype("float64"), axis=-1)
    return (
        Candidates(
            rows=asked,
            vectors=codes[asked],
            embeddings=floats(*listed, WIDTH),
            mask=np.ones(listed, bool),
            queries=floats(*listed, WIDTH),
            features=features(*listed),
        ),
        Behaviors(
            rows=held,
            mask=rng.random(history) < 0.8,
            vectors=codes[held],
            embeddings=floats(*history, WIDTH),
            inverse_norms=np.where(
                norms > 0, 1 / np.maximum(norms, 1), 0
            ).astype("float32"),
            keys=floats(*history, WIDTH),
            features=features(*history),
        ),
    )


def view_of(arrays: Candidates | Behaviors, **changed: Any) -> Any:
    """The view of some arrays, a few of them exchanged."""
    kind = CandidateView if isinstance(arrays, Candidates) else BehaviorView
    return kind(**{**arrays._asdict(), **changed})


def search(layer: Any, candidates: Any, behaviors: Any) -> list[np.ndarray]:
    """Similarities, indices and mask of a search."""
    found = layer(view_of(candidates), view_of(behaviors))
    return [numpy(x) for x in (found.similarities, found.indices, found.mask)]


def positions(found: list[np.ndarray]) -> list[list[list[int]]]:
    """The positions found, without what is masked."""
    _, indices, mask = found
    return [
        [
            row[real].tolist()
            for row, real in zip(indices[b], mask[b], strict=True)
        ]
        for b in range(len(indices))
    ]


def best(scores: np.ndarray, allowed: np.ndarray, k: int, newer_first=False):
    """Positions of the K highest scores (B, C, L) among those allowed."""
    sign = -1 if newer_first else 1
    return [
        [
            sorted(
                np.flatnonzero(allowed[b]).tolist(),
                key=lambda i, row=row: (-row[i], sign * i),
            )[:k]
            for row in scores[b]
        ]
        for b in range(len(scores))
    ]


def cosines_at(codes: np.ndarray, history: np.ndarray, found: Any):
    """Multimodal cosines of what was found, one by one; 0 where masked."""
    _, indices, mask = found
    expected = np.zeros(indices.shape, np.float32)
    for place in np.argwhere(mask):
        b, c, n = place
        left, right = codes[b, c], history[b, indices[b, c, n]]
        if left.any() and right.any():
            expected[b, c, n] = cosine(left, right)
    return expected


__all__ = [
    "DIM",
    "WIDTH",
    "best",
    "cosines_at",
    "positions",
    "search",
    "view_of",
    "views",
]
