"""Builds rows of the raw tables from arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from muse_tools.datasets import raw_tables
from muse_tools.datasets.arrow_lists import Ints, list_array, matrix_lists
from schemas.ranking_schema import RankingSchema, preset

TAOBAO_MM = preset("taobao_mm")


def sample_rows(
    users: Ints,
    items: Ints,
    clicked: npt.NDArray[Any],
    declared: RankingSchema = TAOBAO_MM,
) -> pa.RecordBatch:
    """Returns N impressions; `clicked` (N,) is 0 or 1, or bool."""
    label: Any = np.asarray(clicked, np.int64)
    if declared.label_names["click"].one_hot:
        one_hot = np.stack([1 - clicked, clicked], axis=1, dtype=np.int8)
        label = matrix_lists(one_hot, pa.int8())
    return _batch(raw_tables.TRAIN_SAMPLES, [label, users, items], declared)


def user_rows(
    users: Ints,
    features: Iterable[Ints],
    items: Ints,
    behaviors: Iterable[Ints],
    offsets: Ints,
    declared: RankingSchema = TAOBAO_MM,
) -> pa.RecordBatch:
    """Returns N users; `offsets` (N + 1,) delimit histories in the items."""
    lists = [list_array(v, offsets, pa.int64()) for v in (items, *behaviors)]
    return _batch(
        raw_tables.TRAIN_USER_FEATURES, [users, *features, *lists], declared
    )


def item_rows(
    ids: Ints, features: Iterable[Ints], declared: RankingSchema = TAOBAO_MM
) -> pa.RecordBatch:
    """Returns N items; each feature is int64 (N,)."""
    return _batch(raw_tables.ITEM_FEATURES, [ids, *features], declared)


def vector_rows(
    ids: Ints,
    codes: npt.NDArray[np.int8],
    declared: RankingSchema = TAOBAO_MM,
) -> pa.RecordBatch:
    """Returns items with their vectors, int8 (N, D)."""
    lists = matrix_lists(codes, pa.int8())
    return _batch(raw_tables.EMBEDDINGS, [ids, lists], declared)


def _batch(
    table: str, columns: Sequence[Any], declared: RankingSchema
) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [c if isinstance(c, pa.Array) else pa.array(c) for c in columns],
        schema=raw_tables.schemas(declared)[table],
    )
