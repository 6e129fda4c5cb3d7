"""The searches that the explorer compares with, on one history.

The same rules as `muse_keras.models.CategorySearch` and `IdCosineSearch`,
which search batches inside a model; here the cosines that a behavior was
found by are wanted as well.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def by_category(
    candidate: npt.ArrayLike,
    behaviors: npt.ArrayLike,
    mask: npt.ArrayLike,
    k: int,
) -> npt.NDArray[np.int64]:
    """Returns positions of the newest behaviors of a category, newest first.

    SIM (hard search), arXiv 2006.05639. `behaviors` (L,) are categories, oldest
    first; a missing candidate category (0) finds nothing. Of many values, each
    (many,) and (L, many), one has to be the same.
    """
    mine = np.atleast_1d(np.asarray(candidate))
    mine = mine[mine > 0]
    same = np.isin(behaviors, mine)
    if same.ndim > 1:
        same = same.any(axis=1)
    return np.flatnonzero(np.asarray(mask) & same)[::-1][:k]


def by_cosine(
    values: npt.ArrayLike, mask: npt.ArrayLike, k: int
) -> npt.NDArray[np.int64]:
    """Returns positions by descending cosine, of equal ones the older first.

    SIM (soft search), arXiv 2006.05639.
    """
    places = np.flatnonzero(mask)
    order = np.argsort(-np.asarray(values)[places], kind="stable")
    return places[order][:k]


def cosines(
    target: npt.ArrayLike, vectors: npt.ArrayLike
) -> npt.NDArray[np.float64]:
    """Returns cosines (L,) of a vector and many; 0 where one is zero.

    Equal vectors get equal values.
    """
    one = np.asarray(target, np.float64)
    many = np.asarray(vectors, np.float64)
    # Not a matrix product: its rounding depends on the place of a row.
    products = (many * one).sum(axis=1)
    norms = np.sqrt((many * many).sum(axis=1) * (one * one).sum())
    result: Any = np.zeros(len(many))
    return np.divide(products, norms, out=result, where=norms > 0)
