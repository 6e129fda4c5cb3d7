"""Spherical k-means: clusters of vectors that have similar directions."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from muse_keras.tables import ItemTable
from muse_keras.tables.array_blocks import blocks, release_pages
from muse_keras.tables.item_table import inverse_norms_of

_ROUNDS = 10
_SAMPLE_PER_CLUSTER = 48
_BLOCK = 8192


def unit_vectors(
    table: ItemTable, rows: npt.NDArray[np.integer] | slice
) -> npt.NDArray[np.float32]:
    """Returns float32 (n, D) of table rows; zeros without a vector."""
    codes = table.codes[rows]
    release_pages(table.codes)
    return codes * inverse_norms_of(codes)[:, np.newaxis]


def of_table(table: ItemTable, seed: int = 0) -> npt.NDArray[np.float32]:
    """Returns centroids (C, D) of a sample of the items with a vector.

    C is the square root of the number of items, rounded, so that comparing a
    query with the centroids costs about as much as with one cluster.
    """
    rng = np.random.default_rng(seed)
    count = max(1, round(math.sqrt(table.num_items)))
    size = min(table.num_items, _SAMPLE_PER_CLUSTER * count)
    rows = np.sort(rng.choice(table.num_items, size, replace=False)) + 1
    vectors = unit_vectors(table, rows)
    vectors = vectors[vectors.any(axis=1)]
    return fit(vectors, min(count, len(vectors)), rng)


def fit(
    vectors: npt.NDArray[np.float32], count: int, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Returns unit centroids (count, D) of unit vectors (n, D), n >= count."""

    def drawn(number: int) -> npt.NDArray[np.float32]:
        return vectors[rng.choice(len(vectors), number, replace=False)]

    centroids = drawn(count)
    for _ in range(_ROUNDS):
        place = nearest(vectors, centroids)
        order = np.argsort(place, kind="stable")
        used, starts = np.unique(place[order], return_index=True)
        # A cluster that lost its vectors starts again at one of them.
        centroids = drawn(count)
        if len(used):
            centroids[used] = np.add.reduceat(vectors[order], starts)
        norms = np.linalg.norm(centroids, axis=1, keepdims=True)
        centroids /= np.maximum(norms, np.finfo(np.float32).tiny)
    return centroids


def nearest(
    vectors: npt.NDArray[np.float32], centroids: npt.NDArray[np.float32]
) -> npt.NDArray[np.int32]:
    """Returns the centroid of the largest cosine for each vector, (n,)."""
    place = np.empty(len(vectors), np.int32)
    for block in blocks(len(vectors), _BLOCK):
        place[block] = np.argmax(vectors[block] @ centroids.T, axis=1)
    return place
