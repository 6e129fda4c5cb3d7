"""Adds item features to ready-made histories by way of the item join."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from muse_tools.datasets import raw_tables
from muse_tools.datasets.arrow_lists import (
    list_lengths,
    list_offsets,
    list_values,
    ranges,
)
from schemas.ranking_schema import RankingSchema
from tfx_pipeline.transforms import feature_columns, requests
from tfx_pipeline.transforms.arrow_batches import append, column, numpy_column
from tfx_pipeline.transforms.steps import POSITION

# Column with the place of a behavior in its history.
_PLACE = "place"


def looked_up(declared: RankingSchema) -> bool:
    """Returns whether ready-made behaviors need features of their items."""
    return declared.log is None and bool(declared.features.of_items)


def behaviors(users: pa.RecordBatch, split: str) -> pa.RecordBatch:
    """Returns one row per behavior, with the position of its user's row."""
    items = column(users, raw_tables.BEHAVIOR_ITEM_IDS)
    lengths = list_lengths(items)
    return pa.RecordBatch.from_pydict(
        {
            raw_tables.ITEM_ID: list_values(items),
            **{
                name: np.repeat(numpy_column(users, name), lengths)
                for name in (raw_tables.USER_ID, POSITION)
            },
            _PLACE: ranges(np.zeros_like(lengths), lengths),
            requests.SPLIT: [split] * int(lengths.sum()),
        }
    )


def with_features(
    users: pa.RecordBatch,
    events: pa.RecordBatch | None,
    declared: RankingSchema,
) -> pa.RecordBatch:
    """Returns users with item features of their behaviors as list columns.

    Args:
        users: one row per user.
        events: their `behaviors` with item features, in any order; or None.
        declared: the declaration of the tables.
    """
    offsets = list_offsets(column(users, raw_tables.BEHAVIOR_ITEM_IDS))
    order = np.zeros(0, np.int64)
    if events is not None:
        # Rejected rows have positions that are not among the users.
        rows = requests.rows_of(users, POSITION, numpy_column(events, POSITION))
        order = np.lexsort((numpy_column(events, _PLACE), rows))
        order = order[(rows < 0).sum() :]
    columns = {}
    for name in declared.features.of_items:
        values = (
            feature_columns.empty(declared.features.item[name])
            if events is None
            else column(events, f"behavior_{name}").take(pa.array(order))
        )
        columns[f"behavior_{name}"] = feature_columns.lists(offsets, values)
    return append(users, **columns)
