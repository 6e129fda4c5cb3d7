"""The held-out impressions that every cell scores, in one order."""

from __future__ import annotations

import pathlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from serving.files import appearing


class Impressions(NamedTuple):
    """One value per impression, each (n,)."""

    user_ids: npt.NDArray[np.int64]
    clicks: npt.NDArray[np.int64]
    history: npt.NDArray[np.int64]
    """Behaviors of the request's whole history."""
    popularity: npt.NDArray[np.int64]
    """Impressions of the item in the train split."""
    repeats: npt.NDArray[np.int64]
    """Behaviors of the history with the same item."""

    def save(self, path: pathlib.Path) -> None:
        """Writes an ``.npz`` file all at once."""
        with appearing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **self._asdict())

    @classmethod
    def load(cls, path: pathlib.Path) -> Impressions:
        """Reads what `save` wrote."""
        with np.load(path) as stored:
            return cls(*(stored[name] for name in cls._fields))
