"""Detects ids numbered 0, 1, 2, … by pd.factorize, where 0 is a value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa

from muse_tools.datasets import raw_tables
from muse_tools.datasets.arrow_lists import Mask, values_of

_MOST_NUMBERED = 1 << 22


class Numberings:
    """Finds columns that hold all numbers from 0 to their maximum."""

    def __init__(self, schemas: Mapping[str, pa.Schema]) -> None:
        self._fields: dict[str, pa.Field] = {
            field.name: field
            for schema in schemas.values()
            for field in schema
            if pa.types.is_int64(field.type)
        }
        # None: these ids are not numbered.
        self._seen: dict[str, Mask | None] = {
            name: np.zeros(0, bool) for name in self._fields
        }

    def add(self, name: str, batch: pa.RecordBatch) -> None:
        """Adds the ids of a column."""
        seen = self._seen.get(name)
        if seen is None:
            return
        ids = values_of(batch[name].drop_null())
        if not len(ids):
            return
        # pd.factorize gives -1 to missing values.
        if ids.min() < -1 or ids.max() >= _MOST_NUMBERED:
            self._seen[name] = None
            return
        grown = np.zeros(max(len(seen), int(ids.max()) + 1), bool)
        grown[: len(seen)] = seen
        grown[ids[ids >= 0]] = True
        self._seen[name] = grown

    def notes(self) -> Iterator[str]:
        """Yields a note for each numbered column."""
        for name, seen in self._seen.items():
            if seen is None or len(seen) < 2 or not seen.all():
                continue
            where = raw_tables.same_ids(self._fields[name])
            yield (
                f"0 is in use as {name}: the values are 0 to "
                f"{len(seen) - 1:,} without a gap, as pd.factorize numbers "
                "them, but 0 means missing (rows with it as their key are "
                "rejected, features and histories ignore it). If 0 is a value "
                f"like the others, add 1 to all of {' and '.join(where)}."
            )
