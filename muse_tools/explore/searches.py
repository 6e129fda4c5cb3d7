"""The searches that the explorer compares with, on one history.

The same rules as `muse_keras.models.CategorySearch` and `IdCosineSearch`,
which search batches inside a model; here the cosines that a behavior was
found by are wanted as well.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["by_category", "by_cosine", "cosines"]


def by_category(
    candidate: int, behaviors: npt.ArrayLike, mask: npt.ArrayLike, k: int
) -> npt.NDArray[np.int64]:
    """Returns the newest behaviors of the candidate's category.

    Source: SIM (hard search), arXiv 2006.05639.

    Args:
        candidate: its category's vocabulary index; 0 (missing) finds nothing.
        behaviors: int (L,), their categories, oldest first.
        mask: bool (L,), True = a behavior that counts.
        k: how many at most.

    Returns:
        int64 positions, newest first.
    """
    same = np.asarray(mask) & (np.asarray(behaviors) == candidate)
    return np.flatnonzero(same & (candidate > 0))[::-1][:k]


def by_cosine(
    values: npt.ArrayLike, mask: npt.ArrayLike, k: int
) -> npt.NDArray[np.int64]:
    """Returns the behaviors of the highest cosine.

    Source: SIM (soft search), arXiv 2006.05639.

    Args:
        values: float (L,), cosines to the candidate.
        mask: bool (L,), True = a behavior that counts.
        k: how many at most.

    Returns:
        int64 positions by descending cosine, of equal ones the smaller
        position first.
    """
    places = np.flatnonzero(mask)
    order = np.argsort(-np.asarray(values)[places], kind="stable")
    return places[order][:k]


def cosines(
    target: npt.ArrayLike, vectors: npt.ArrayLike
) -> npt.NDArray[np.float64]:
    """Returns the cosine of a vector and each of many.

    Args:
        target: (D,).
        vectors: (L, D).

    Returns:
        float64 (L,); 0 where either vector is zero. Equal vectors get equal
        values.
    """
    one = np.asarray(target, np.float64)
    many = np.asarray(vectors, np.float64)
    # Not a matrix product: its rounding depends on the place of a row.
    products = (many * one).sum(axis=1)
    norms = np.sqrt((many * many).sum(axis=1) * (one * one).sum())
    result: Any = np.zeros(len(many))
    return np.divide(products, norms, out=result, where=norms > 0)
