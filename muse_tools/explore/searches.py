"""The searches that the explorer compares with, on one history.

They follow the same rules as `muse_keras.models.CategorySearch` and
`IdCosineSearch`, which search batches inside a model. The explorer also needs
the cosines of the behaviors found.
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
    first; a missing candidate category (0) finds nothing. For lists, (many,)
    and (L, many), one common value is enough.
    """
    mine = np.atleast_1d(np.asarray(candidate))
    mine = mine[mine > 0]
    same = np.isin(behaviors, mine)
    if same.ndim > 1:
        same = np.asarray(same.any(axis=1))
    return np.flatnonzero(np.asarray(mask) & same)[::-1][:k]


def by_cosine(
    values: npt.ArrayLike, mask: npt.ArrayLike, k: int
) -> npt.NDArray[np.int64]:
    """Returns positions by descending cosine; ties put older ones first.

    SIM (soft search), arXiv 2006.05639.
    """
    places = np.flatnonzero(mask)
    order = np.argsort(-np.asarray(values)[places], kind="stable")
    return places[order][:k]


def cosines(
    target: npt.ArrayLike, vectors: npt.ArrayLike
) -> npt.NDArray[np.float64]:
    """Returns cosines (L,) of a vector (E,) and vectors (L, E).

    The cosine with a zero vector is 0. Equal vectors get equal values.
    """
    one = np.asarray(target, np.float64)
    many = np.asarray(vectors, np.float64)
    # The rounding of a matrix product would depend on the position of a row.
    products = (many * one).sum(axis=1)
    norms = np.sqrt((many * many).sum(axis=1) * (one * one).sum())
    result: Any = np.zeros(len(many))
    return np.divide(products, norms, out=result, where=norms > 0)
