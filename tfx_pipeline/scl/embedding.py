"""Methods that embed content, for evaluation and for export."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from muse_keras.tables.array_blocks import blocks
from muse_tools.datasets.item_content import ItemContent

Features = Mapping[str, npt.NDArray[np.float32]]
Vectors = npt.NDArray[np.float32]

_BATCH = 1024


@dataclasses.dataclass(frozen=True)
class Embedder:
    """One method to embed queries and items.

    Attributes:
        queries: function from features of n queries to float32 (n, D), whose
            rows are unit vectors or zeros.
        items: the same for items.
    """

    queries: Callable[[Features], Vectors]
    items: Callable[[Features], Vectors]


def embed_content(
    embed: Callable[[Features], Vectors],
    content: ItemContent,
    rows: slice | None = None,
    batch: int = _BATCH,
) -> Iterator[tuple[slice, Vectors]]:
    """Embeds items batch by batch; yields rows and their vectors (n, D)."""
    start, stop, _ = (rows or slice(None)).indices(len(content))
    for block in blocks(stop - start, batch):
        part = slice(start + block.start, min(stop, start + block.stop))
        yield part, embed(content.features(np.arange(part.start, part.stop)))


def raw_modalities(names: tuple[str, ...]) -> Embedder:
    """Returns an embedder whose cosine is that of the raw modalities.

    With several modalities, the cosine is the mean over all of `names`; a
    missing modality counts as 0.
    """

    def embed(features: Features) -> Vectors:
        parts = [unit(features[name]) for name in names]
        return np.concatenate(parts, axis=-1) / np.float32(np.sqrt(len(parts)))

    return Embedder(embed, embed)


def by_chance(seed: int, dim: int) -> Embedder:
    """Returns an embedder with random unit vectors, as a baseline."""
    generator = np.random.default_rng(seed)

    def embed(features: Features) -> Vectors:
        count = len(next(iter(features.values())))
        return unit(generator.standard_normal((count, dim), np.float32))

    return Embedder(embed, embed)


def unit(vectors: Vectors) -> Vectors:
    """Returns rows scaled to length 1; zero rows stay zero."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(
        vectors, norms, out=np.zeros_like(vectors), where=norms > 0
    )
