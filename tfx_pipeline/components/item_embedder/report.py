"""What item embeddings are like: coverage, norms, cost of int8 codes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from muse_tools.datasets import item_text
from tfx_pipeline.scl.embedding import unit

__all__ = ["BlockReport", "int8_recall", "merge"]


@dataclasses.dataclass(frozen=True)
class BlockReport:
    """Numbers of some items, that add up.

    Attributes:
        items: items with content.
        without_vector: of them, those whose vector is zero: nothing in their
            content says anything.
        code_norm_sum: sum of the Euclidean norms of ``codes / 127``.
        code_norm_min: least of them.
        code_norm_max: greatest of them.
    """

    items: int
    without_vector: int
    code_norm_sum: float
    code_norm_min: float
    code_norm_max: float

    @classmethod
    def of(cls, codes: npt.NDArray[np.int8], items: int) -> BlockReport:
        """Describes a block.

        Args:
            codes: int8 (n, D) of the items that have a vector.
            items: items of the block, n or more.
        """
        norms = np.linalg.norm(codes.astype(np.float32), axis=1)
        norms /= item_text.SCALE
        return cls(
            items,
            items - len(codes),
            float(norms.sum(dtype=np.float64)),
            float(norms.min(initial=np.inf)),
            float(norms.max(initial=0.0)),
        )


def merge(blocks: list[BlockReport]) -> dict[str, Any]:
    """Adds blocks up.

    Returns:
        ``items``, ``with_vector``, ``without_vector``, and ``code_norm``:
        mean, min and max of the norms of what the codes stand for (a unit
        vector's is just below 1), None without any vector.
    """
    items = sum(block.items for block in blocks)
    without = sum(block.without_vector for block in blocks)
    found = items - without
    total = sum(block.code_norm_sum for block in blocks)
    return {
        "items": items,
        "with_vector": found,
        "without_vector": without,
        "code_norm": {
            "mean": total / found,
            "min": min(block.code_norm_min for block in blocks),
            "max": max(block.code_norm_max for block in blocks),
        }
        if found
        else None,
    }


def int8_recall(
    vectors: npt.NDArray[np.float32], k: int, queries: int
) -> dict[str, Any]:
    """Measures how many nearest neighbours survive the int8 codes.

    Both neighbourhoods are exact: by the cosine of the vectors, and by the
    cosine of their codes, which is what the ranker computes.

    Args:
        vectors: float32 (n, D), unit rows.
        k: neighbours of an item, itself left out.
        queries: items to ask for at most, evenly taken.

    Returns:
        ``items``, ``queries``, ``k``, ``recall`` (mean share of the k nearest
        by vectors that are among the k nearest by codes) and
        ``max_cosine_error``.
    """
    k = min(k, len(vectors) - 1)
    if k < 1:
        return {"items": len(vectors), "queries": 0, "k": 0, "recall": None}
    decoded = unit(item_text.quantize(vectors).astype(np.float32))
    asked = np.unique(
        np.linspace(0, len(vectors) - 1, min(queries, len(vectors)))
        .round()
        .astype(np.int64)
    )
    overlap, error = 0, 0.0
    for some in np.array_split(asked, -(-len(asked) // 256)):
        exact = vectors[some] @ vectors.T
        coded = decoded[some] @ decoded.T
        error = max(error, float(np.abs(exact - coded).max()))
        places = np.arange(len(some))
        for scores in (exact, coded):
            scores[places, some] = -np.inf
        mine = np.argpartition(-coded, k - 1, axis=1)[:, :k]
        kth = np.partition(exact, -k, axis=1)[:, -k]
        # By score, not by index: of equal vectors any is right.
        overlap += int(
            (
                np.take_along_axis(exact, mine, axis=1) >= kth[:, None] - 1e-6
            ).sum()
        )
    return {
        "items": len(vectors),
        "queries": len(asked),
        "k": k,
        "recall": overlap / (len(asked) * k),
        "max_cosine_error": error,
    }
