"""Texts of item keys, from a table with their ids."""

from __future__ import annotations

import os
import pathlib

import numpy as np


class ItemNames:
    """Maps ids of items to texts.

    Args:
        path: Parquet file with `item_id` (int64) and `name`, as the pipeline
            writes it; empty for none.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._state: tuple[int, int] | None = None
        self._ids = np.zeros(0, np.int64)
        self._names = np.zeros(0, object)

    def read(self) -> None:
        """Reads the file if it has changed since the last call.

        Raises `OSError` or `ValueError` if it cannot be read.
        """
        if not self._path:
            return
        found = os.stat(self._path)
        state = (found.st_mtime_ns, found.st_size)
        if state == self._state:
            return
        import pyarrow.parquet as pq

        table = pq.read_table(
            pathlib.Path(self._path), columns=["item_id", "name"]
        )
        ids = table["item_id"].to_numpy()
        order = np.argsort(ids, kind="stable")
        self._ids = ids[order]
        self._names = table["name"].take(order).to_numpy()
        self._state = state

    def of(self, ids: np.ndarray) -> np.ndarray:
        """Returns texts (N,) of ids, or decimal numbers if there is none."""
        texts = np.array([str(one) for one in ids.tolist()], object)
        places = np.searchsorted(self._ids, ids)
        known = places < len(self._ids)
        known[known] = self._ids[places[known]] == ids[known]
        texts[known] = self._names[places[known]]
        return texts
