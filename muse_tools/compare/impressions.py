"""The held-out impressions, in the order in which every cell scores them."""

from __future__ import annotations

import pathlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from serving.files import appearing


class Impressions(NamedTuple):
    """Columns (n,) with one value per impression."""

    user_ids: npt.NDArray[np.int64]
    clicks: npt.NDArray[np.int64]
    history: npt.NDArray[np.int64]
    """Number of behaviors in the request's whole history."""
    popularity: npt.NDArray[np.int64]
    """Number of impressions of the item in the train split."""
    repeats: npt.NDArray[np.int64]
    """Number of behaviors with the same item."""

    def save(self, path: pathlib.Path) -> None:
        """Writes an ``.npz`` file atomically."""
        with appearing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **self._asdict())

    @classmethod
    def load(cls, path: pathlib.Path) -> Impressions:
        """Reads what `save` wrote."""
        with np.load(path) as stored:
            return cls(*(stored[name] for name in cls._fields))
