"""Ids numbered 0, 1, 2, … as pd.factorize gives them: there 0 is a value."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from muse_tools.datasets import raw_tables
from muse_tools.datasets.arrow_lists import Mask, values_of

_MOST_NUMBERED = 1 << 22
# Column to what its ids are, and the columns that hold the same ids.
_NUMBERED = {
    raw_tables.USER_ID: ("a user id", [raw_tables.USER_ID]),
    raw_tables.ITEM_ID: (
        "an item id",
        [raw_tables.ITEM_ID, raw_tables.BEHAVIOR_ITEM_IDS],
    ),
    raw_tables.ITEM_CATEGORY: (
        "a category",
        [raw_tables.ITEM_CATEGORY, raw_tables.BEHAVIOR_CATEGORY_IDS],
    ),
    **{
        code: (raw_tables.describe_column(code), [code])
        for code in (
            raw_tables.ITEM_CITY,
            raw_tables.ITEM_PROVINCE,
            *raw_tables.USER_PROFILE,
        )
    },
}


class Numberings:
    """Which columns hold all numbers from 0 to their largest."""

    def __init__(self) -> None:
        # None: these ids are not numbered.
        self._seen: dict[str, Mask | None] = {
            code: np.zeros(0, bool) for code in _NUMBERED
        }

    def add(self, code: str, batch: pa.RecordBatch) -> None:
        """Looks at the ids of a column."""
        seen, ids = self._seen[code], values_of(batch[code].drop_null())
        if seen is None or not len(ids):
            return
        # pd.factorize gives -1 to what is missing.
        if ids.min() < -1 or ids.max() >= _MOST_NUMBERED:
            self._seen[code] = None
            return
        grown = np.zeros(max(len(seen), int(ids.max()) + 1), bool)
        grown[: len(seen)] = seen
        grown[ids[ids >= 0]] = True
        self._seen[code] = grown

    def notes(self) -> Iterator[str]:
        """Yields a line for each column that is numbered."""
        for code, seen in self._seen.items():
            if seen is None or len(seen) < 2 or not seen.all():
                continue
            name, where = _NUMBERED[code]
            yield (
                f"0 is in use as {name}: the values are 0 to "
                f"{len(seen) - 1:,} without a gap, as pd.factorize numbers "
                "them, but 0 means missing (rows with it as their key are "
                "rejected, features and histories ignore it). If 0 is a value "
                f"like the others, add 1 to all of {' and '.join(where)}."
            )
