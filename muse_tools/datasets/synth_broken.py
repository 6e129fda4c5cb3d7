"""Broken rows of the synthetic data, by table and reason of rejection."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from muse_tools.datasets import (
    raw_tables,
    search_tables,
    search_validation,
    validation,
)
from muse_tools.datasets.arrow_lists import list_array, with_column
from muse_tools.datasets.options import SyntheticOptions
from muse_tools.datasets.raw_rows import (
    TAOBAO_MM,
    item_rows,
    sample_rows,
    user_rows,
    vector_rows,
)
from muse_tools.datasets.synth_items import Catalog, public_ids
from muse_tools.datasets.synth_search import (
    CONTENT_SCHEMA,
    EVENT_SCHEMA,
    MODALITIES,
    Events,
    batch,
)
from muse_tools.datasets.synth_users import PROFILE_SIZES

Rows = dict[str, dict[str, pa.RecordBatch]]

_BAD_LABELS = [[1, 1], [0, 0], [1], [0, 1, 0], []]
_VECTOR = [1.0] * MODALITIES["image"]
_BAD_VECTORS = {
    search_validation.WRONG_DIMENSION: _VECTOR[:-1],
    search_validation.NOT_FINITE: [*_VECTOR[:-1], float("nan")],
    search_validation.ZERO_VECTOR: [0.0] * len(_VECTOR),
    search_validation.NO_CONTENT: None,
}


def raw_rows(options: SyntheticOptions, catalog: Catalog) -> Rows:
    """Returns `options.broken` rows of each kind for the train tables."""
    count = options.broken
    if not count:
        return {}
    known = np.arange(count) % min(options.users, catalog.size)
    users = public_ids(known, 0, options.seed)
    items = catalog.ids(known)
    unknown = options.users + np.arange(2 * count)
    unequal_users, stranger_users = np.split(
        public_ids(unknown, 0, options.seed), 2
    )
    stranger_items = catalog.ids(catalog.size + np.arange(count))
    not_clicked = np.zeros(count, bool)
    profiles = np.zeros((len(PROFILE_SIZES), count), np.int64)
    one_each = np.arange(count + 1)
    unequal = user_rows(unequal_users, profiles, items, [items], one_each)
    no_categories = list_array(items[:0], np.zeros(count + 1), pa.int64())

    def labeled(labels: list[Any]) -> pa.RecordBatch:
        schema = raw_tables.schemas(TAOBAO_MM)[raw_tables.TRAIN_SAMPLES]
        return batch([labels, users, items], schema)

    return {
        raw_tables.TRAIN_SAMPLES: {
            validation.LABEL_NOT_ONE_HOT: labeled(
                [_BAD_LABELS[i % len(_BAD_LABELS)] for i in range(count)]
            ),
            validation.NULL: labeled([None] * count),
            validation.NO_ITEM_FEATURES: sample_rows(
                users, stranger_items, not_clicked
            ),
            validation.NO_USER_FEATURES: sample_rows(
                stranger_users, items, not_clicked
            ),
        },
        raw_tables.TRAIN_USER_FEATURES: {
            validation.DUPLICATE_USER: user_rows(
                users, profiles, items, [items], one_each
            ),
            validation.UNEQUAL_LISTS: with_column(
                unequal, "behavior_category", no_categories
            ),
        },
        raw_tables.ITEM_FEATURES: {
            validation.DUPLICATE_ITEM: item_rows(items, [items] * 3)
        },
        raw_tables.EMBEDDINGS: {
            validation.EMBEDDING_LENGTH: vector_rows(
                stranger_items, catalog.codes(known)[:, :-1]
            )
        },
    }


def search_rows(count: int, events: Events, catalog: Catalog) -> Rows:
    """Returns `count` rows of each kind for item content and searches."""
    if not count:
        return {}
    nothing, zeros = [None] * count, [0] * count
    strangers = catalog.ids(catalog.size + np.arange(count)).tolist()
    known = catalog.ids(np.zeros(1, np.int64)).tolist() * count
    unknown = len(events.time) + np.arange(count)
    queries = public_ids(unknown, 5, catalog.seed).tolist()
    bought = catalog.ids(events.purchased[:1]).tolist() * count
    time = events.time[:1].tolist() * count
    content = {
        **{reason: (strangers, bad) for reason, bad in _BAD_VECTORS.items()},
        validation.NULL: (nothing, _VECTOR),
        validation.MISSING_ID: (zeros, _VECTOR),
        validation.DUPLICATE_ITEM: (known, _VECTOR),
    }
    searches = {
        **{
            reason: (queries, bad, bought)
            for reason, bad in _BAD_VECTORS.items()
        },
        validation.NULL: (queries, _VECTOR, nothing),
        validation.MISSING_ID: (zeros, _VECTOR, bought),
        search_validation.UNKNOWN_PURCHASE: (queries, _VECTOR, strangers),
    }
    return {
        search_tables.ITEM_CONTENT: {
            reason: batch((ids, [vector] * count, nothing), CONTENT_SCHEMA)
            for reason, (ids, vector) in content.items()
        },
        search_tables.SEARCH_EVENTS: {
            reason: batch(
                (ids, time, [vector] * count, nothing, items, [[]] * count),
                EVENT_SCHEMA,
            )
            for reason, (ids, vector, items) in searches.items()
        },
    }
