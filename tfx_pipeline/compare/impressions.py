"""The held-out impressions that every cell scores, in one order."""

from __future__ import annotations

import os
import pathlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Impressions"]


class Impressions(NamedTuple):
    """One value per impression, each (n,).

    Attributes:
        user_ids: int64.
        clicks: 0 or 1.
        history: behaviours of the request's whole history.
        popularity: impressions of the item in the train split.
        repeats: behaviours of the history with the same item.
    """

    user_ids: npt.NDArray[np.int64]
    clicks: npt.NDArray[np.int64]
    history: npt.NDArray[np.int64]
    popularity: npt.NDArray[np.int64]
    repeats: npt.NDArray[np.int64]

    def save(self, path: pathlib.Path) -> None:
        """Writes an ``.npz`` file all at once."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{os.getpid()}.{path.name}")
        np.savez_compressed(temporary, **self._asdict())
        temporary.replace(path)

    @classmethod
    def load(cls, path: pathlib.Path) -> Impressions:
        """Reads what `save` wrote."""
        with np.load(path) as stored:
            return cls(*(stored[name] for name in cls._fields))
