"""Few popular ids and many rare ones."""

from __future__ import annotations

import numpy as np

EXPONENT = 1.05


class Zipf:
    """Draws ids of which the n-th most popular has the weight 1 / n**exponent.

    Args:
        ids: int64 (N,), the most popular first.
        exponent: how much the popular ones are preferred; 0 is not at all.

    Raises:
        ValueError: if there are no ids.
    """

    def __init__(self, ids: np.ndarray, exponent: float = EXPONENT) -> None:
        if not len(ids):
            raise ValueError("`ids` must hold at least one id.")
        weights = np.arange(1, len(ids) + 1, dtype=np.float64) ** -exponent
        self.ids = np.asarray(ids, np.int64)
        self._bounds = np.cumsum(weights / weights.sum())

    def draw(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """Draw ids, the same one perhaps several times.

        Args:
            count: how many.
            generator: where chance comes from.

        Returns:
            int64 (count,).
        """
        places = np.searchsorted(self._bounds, generator.random(count))
        return self.ids[np.minimum(places, len(self.ids) - 1)]

    def distinct(
        self, count: int, generator: np.random.Generator
    ) -> np.ndarray:
        """Draw different ids, one after the other.

        Args:
            count: how many.
            generator: where chance comes from.

        Returns:
            int64 (count,), in the order in which they were drawn.

        Raises:
            ValueError: if there are fewer ids than that.
        """
        if count > len(self.ids):
            raise ValueError(
                f"`count` must be at most {len(self.ids)}. Received: {count}"
            )
        drawn = np.zeros(0, np.int64)
        while True:
            drawn = np.concatenate([drawn, self.draw(2 * count, generator)])
            first = np.unique(drawn, return_index=True)[1]
            if len(first) >= count:
                return drawn[np.sort(first)[:count]]
