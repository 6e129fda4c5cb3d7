"""Items of the synthetic data: styles, popularity, latents, ids.

The noise in a latent vector comes from a counter-based hash of the item's
index, so no vector is stored per item.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from muse_tools.datasets import raw_tables
from muse_tools.datasets.arrow_lists import Ints
from muse_tools.datasets.item_text import quantize

STYLES_PER_CATEGORY = 8
CITIES_PER_PROVINCE = 10

_Floats = npt.NDArray[np.float64]

_DIM = raw_tables.EMBEDDING_DIM
_STYLE_SPREAD = 0.9
_ITEM_SPREAD = 0.45
_VIEW_NOISE = 0.35
_POPULARITY_EXPONENT = 0.9
_NUM_CITIES = 300


def mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The bijective 64-bit finalizer of SplitMix64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(
        0xBF58476D1CE4E5B9
    )
    values = (values ^ (values >> np.uint64(27))) * np.uint64(
        0x94D049BB133111EB
    )
    return values ^ (values >> np.uint64(31))


def public_ids(index: Ints, domain: int, seed: int) -> Ints:
    """Maps indices of a domain to distinct signed 64-bit ids, never 0."""
    key = np.random.SeedSequence([seed, 100 + domain]).generate_state(1)[0]
    # The mix is a bijection with 0 -> 0, and the argument is never 0.
    counter = index.astype(np.uint64) + np.uint64((int(key) << 24) | (1 << 60))
    return mix(counter).view(np.int64)


def hash_noise(index: Ints, salt: int) -> npt.NDArray[np.float32]:
    """Returns noise (N, 128) of unit variance that depends on `index`."""
    blocks = np.arange(_DIM // 8, dtype=np.uint64)
    counter = index.astype(np.uint64)[:, None] * np.uint64(64) + blocks
    state = mix(counter + np.uint64((salt << 40) | 1))
    values = state.view(np.uint8).reshape(len(index), _DIM)
    return (values.astype(np.float32) - 127.5) / np.float32(73.9)


def _unit(vectors: npt.NDArray[Any]) -> npt.NDArray[Any]:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(norms, 1e-12)


class Catalog:
    """Items: style, popularity, ids; sorted by style."""

    def __init__(
        self,
        size: int,
        seed: int,
        new_items: float,
        missing_embeddings: float,
    ) -> None:
        """Draws everything that is stored per item or style."""
        rng = np.random.default_rng([seed, 1])
        self.seed = seed
        self.size = size
        self.salt = int(rng.integers(1, 1 << 20))
        self.num_categories = int(np.clip(size // 150, 8, 4_000))
        num_styles = self.num_categories * STYLES_PER_CATEGORY
        centers = _unit(rng.standard_normal((self.num_categories, _DIM)))
        spread = _unit(rng.standard_normal((num_styles, _DIM)))
        self.style_vectors = _unit(
            np.repeat(centers, STYLES_PER_CATEGORY, axis=0)
            + _STYLE_SPREAD * spread
        ).astype(np.float32)
        # Styles differ in size, and each has a share above 0.
        shares = rng.pareto(1.5, num_styles) + 0.3
        style = rng.choice(num_styles, size, p=shares / shares.sum())
        self.style = np.sort(style).astype(np.int32)
        rank = rng.permutation(size)
        self.rank_share = ((rank + 0.5) / size).astype(np.float32)
        weight = (rank + 10.0) ** -_POPULARITY_EXPONENT
        self.is_new = rng.random(size) < new_items
        self.has_embedding = rng.random(size) >= (
            2 * missing_embeddings * self.rank_share
        )
        self._known = np.cumsum(np.where(self.is_new, 0.0, weight))
        self._all = np.cumsum(weight)
        self.start = np.searchsorted(self.style, np.arange(num_styles + 1))
        # Styles that may occur in histories: they have an item that is not new.
        bounds = np.r_[0.0, self._known][self.start]
        self.usable = np.flatnonzero(np.diff(bounds) > 0)
        self.category_of_style = np.arange(num_styles) // STYLES_PER_CATEGORY
        city = rng.integers(0, _NUM_CITIES, size)
        self.city = city.astype(np.int32)

    def draw(self, style: Ints, uniform: _Floats, new: bool) -> Ints:
        """Draws an item of each style (N,) by popularity; -1 is any style."""
        cumulative = self._all if new else self._known
        bounds = np.r_[0.0, cumulative]
        free = style < 0
        low = np.where(free, 0.0, bounds[self.start[style]])
        high = np.where(free, bounds[-1], bounds[self.start[style + 1]])
        at = low + uniform * (high - low)
        item = np.searchsorted(cumulative, at, side="right")
        first = np.where(free, 0, self.start[style])
        last = np.where(free, self.size, self.start[style + 1]) - 1
        return np.clip(item, first, last)

    def latents(self, item: Ints) -> npt.NDArray[np.float32]:
        """Returns the unit latent vectors (N, 128) of items."""
        noise = hash_noise(item, self.salt) * np.float32(
            _ITEM_SPREAD / _DIM**0.5
        )
        return _unit(self.style_vectors[self.style[item]] + noise)

    def codes(self, item: Ints) -> npt.NDArray[np.int8]:
        """Returns the noisy int8 views (N, 128) of items."""
        noise = hash_noise(item, self.salt + 1) * np.float32(
            _VIEW_NOISE / _DIM**0.5
        )
        return quantize(_unit(self.latents(item) + noise))

    def ids(self, item: Ints) -> Ints:
        """Returns the public ids of items."""
        return public_ids(item, 1, self.seed)

    def categories(self, item: Ints) -> Ints:
        """Returns the public category ids of items."""
        return public_ids(
            self.category_of_style[self.style[item]].astype(np.int64),
            2,
            self.seed,
        )
