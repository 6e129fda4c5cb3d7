"""Rows of the raw tables, built from arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from muse_tools.datasets import raw_tables
from muse_tools.datasets.arrow_lists import Ints, list_array, matrix_lists


def sample_rows(
    users: Ints, items: Ints, clicked: npt.NDArray[Any]
) -> pa.RecordBatch:
    """Returns impressions; `clicked` is 0 or 1, or false or true."""
    one_hot = np.stack([1 - clicked, clicked], axis=1, dtype=np.int8)
    return _batch(
        raw_tables.TRAIN_SAMPLES,
        [matrix_lists(one_hot, pa.int8()), users, items],
    )


def user_rows(
    users: Ints,
    profiles: Iterable[Ints],
    items: Ints,
    categories: Ints,
    offsets: Ints,
) -> pa.RecordBatch:
    """Returns users; `offsets` cut both lists into histories."""
    lists = [list_array(v, offsets, pa.int64()) for v in (items, categories)]
    return _batch(raw_tables.TRAIN_USER_FEATURES, [users, *profiles, *lists])


def item_rows(
    ids: Ints, category: Ints, city: Ints, province: Ints
) -> pa.RecordBatch:
    """Returns items with their features."""
    return _batch(raw_tables.ITEM_FEATURES, [ids, category, city, province])


def vector_rows(ids: Ints, codes: npt.NDArray[np.int8]) -> pa.RecordBatch:
    """Returns items with their vectors, int8 (N, D)."""
    return _batch(raw_tables.EMBEDDINGS, [ids, matrix_lists(codes, pa.int8())])


def _batch(table: str, columns: Sequence[Any]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [c if isinstance(c, pa.Array) else pa.array(c) for c in columns],
        schema=raw_tables.SCHEMAS[table],
    )
