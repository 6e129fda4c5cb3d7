"""Groups the rows of one partition into requests, without Beam."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from muse_tools.datasets import raw_tables, validation
from schemas.ranking_schema import RankingSchema
from tfx_pipeline import features
from tfx_pipeline.transforms import event_histories, feature_columns
from tfx_pipeline.transforms.arrow_batches import column, mix, numpy_column
from tfx_pipeline.transforms.event_histories import EventHistories
from tfx_pipeline.transforms.steps import POSITION

# Columns that the join adds, besides the position.
SPLIT = "split"
POPULARITY = "popularity"

# Behaviors in one batch of requests: 8 MB of ids.
_BATCH_BEHAVIORS = 1 << 19


def build_requests(
    samples: pa.RecordBatch,
    users: pa.RecordBatch,
    user_rows: np.ndarray,
    max_candidates: int,
    declared: RankingSchema,
    histories: EventHistories | None = None,
) -> Iterator[pa.RecordBatch]:
    """Groups joined samples into requests.

    A user's samples keep the order of the table. At most ``max_candidates`` of
    them form one request; in a log, only samples of the same request do.
    Requests are sorted by a hash of the user id, which mixes the users and does
    not depend on the order of the tables.

    Yields:
        Batches of about 8 MB with one row per request; all columns are lists,
        with the names of the request-grouped Example.
    """
    log = declared.log
    keys = mix(numpy_column(users, raw_tables.USER_ID))[user_rows]
    ends = numbers = np.zeros(len(keys), np.int64)
    if log:
        ends, numbers = event_histories.request_ends(samples, user_rows, log)
    order = np.lexsort((numpy_column(samples, POSITION), numbers, ends, keys))
    user_rows, ends = user_rows[order], ends[order]
    starts = _request_starts(
        np.stack([user_rows, ends, numbers[order]]), max_candidates
    )
    bounds = np.r_[starts, len(order)]
    candidates = _candidates(samples.take(pa.array(order)), declared)
    users = feature_columns.with_filled(users, declared.features.learned())
    names = users.schema.names
    longest = (
        log.max_history
        if log
        else pc.max(
            pc.list_value_length(column(users, raw_tables.BEHAVIOR_ITEM_IDS))
        ).as_py()
    )
    step = max(1, _BATCH_BEHAVIORS // max(1, longest))
    for first in range(0, len(starts), step):
        chosen = slice(first, first + step)
        rows = pa.array(user_rows[starts[chosen]])
        singles = np.arange(len(rows) + 1)
        offsets = bounds[first : first + len(rows) + 1]
        columns = {}
        for name in (n for n in names if n.startswith("user_")):
            values = column(users, name).take(rows)
            columns[name] = feature_columns.lists(singles, values)
        if histories:
            of_requests = starts[chosen]
            columns |= histories.before(
                user_rows[of_requests], ends[of_requests]
            )
        for name in (n for n in names if n.startswith("behavior_")):
            columns[name] = column(users, name).take(rows)
        things = slice(offsets[0], offsets[-1])
        for name, values in candidates.items():
            columns[name] = feature_columns.lists(
                offsets - offsets[0], values[things]
            )
        yield pa.RecordBatch.from_arrays(
            list(columns.values()), names=list(columns)
        )


def _candidates(
    samples: pa.RecordBatch, declared: RankingSchema
) -> dict[str, pa.Array]:
    """Returns the values of each candidate by their names in Examples."""
    own = declared.features.learned()
    samples = feature_columns.with_filled(samples, own)
    found = {
        features.CANDIDATE_ITEM_IDS: column(samples, raw_tables.ITEM_ID),
        **{
            f"candidate_{name.removeprefix('item_')}": column(samples, name)
            for name in item_features(samples)
        },
    }
    for name, feature in own.items():
        if feature.time and declared.log and name.startswith("context_"):
            times = numpy_column(samples, raw_tables.TIME)
            found[name] = pa.array(
                event_histories.of_clock(times, feature, declared.log)
            )
        elif name.startswith(("context_", "candidate_")):
            found[name] = column(samples, name)
    found[features.CANDIDATE_POPULARITY] = column(samples, POPULARITY)
    for label, name in zip(
        features.labels(declared), declared.label_names, strict=True
    ):
        labels = validation.clicks(samples, name).astype(np.int64)
        found[label] = pa.array(labels)
    if declared.weight:
        found[features.WEIGHTS] = column(samples, raw_tables.WEIGHT)
    return found


def item_features(rows: pa.RecordBatch) -> list[str]:
    """Returns the names of the columns with item features."""
    return [
        name
        for name in rows.schema.names
        if name.startswith("item_") and name != raw_tables.ITEM_ID
    ]


def _request_starts(keys: np.ndarray, max_candidates: int) -> np.ndarray:
    """Returns the starts of requests among samples sorted by `keys` (K, N)."""
    place = np.arange(keys.shape[1])
    new = np.r_[True, (keys[:, 1:] != keys[:, :-1]).any(axis=0)]
    within = place - np.maximum.accumulate(np.where(new, place, 0))
    return np.flatnonzero(within % max_candidates == 0)


def distinct_users(samples: pa.RecordBatch) -> pa.RecordBatch:
    """Returns the distinct users of samples, numbered by position."""
    ids = np.unique(numpy_column(samples, raw_tables.USER_ID))
    return pa.RecordBatch.from_pydict(
        {raw_tables.USER_ID: ids, POSITION: np.arange(len(ids))}
    )


def is_first(rows: pa.RecordBatch, key: str) -> np.ndarray:
    """Returns which rows are the first with their key, bool (N,)."""
    ids = numpy_column(rows, key)
    order = np.lexsort((numpy_column(rows, POSITION), ids))
    ordered = ids[order]
    first = np.zeros(len(ids), bool)
    first[order] = np.r_[True, ordered[1:] != ordered[:-1]][: len(ids)]
    return first


def rows_of(
    table: pa.RecordBatch | None, key: str, wanted: np.ndarray
) -> np.ndarray:
    """Returns the row of each wanted id, int64 (N,), or -1."""
    if table is None or not table.num_rows:
        return np.full(len(wanted), -1, np.int64)
    ids = numpy_column(table, key)
    order = np.argsort(ids, kind="stable")
    place = np.searchsorted(ids, wanted, sorter=order)
    rows = order[np.minimum(place, len(ids) - 1)]
    return np.where(ids[rows] == wanted, rows, -1)


def popularity(samples: pa.RecordBatch, train_split: str) -> np.ndarray:
    """Counts the train samples of each sample's item, int64 (N,)."""
    ids = numpy_column(samples, raw_tables.ITEM_ID)
    train = numpy_column(samples, SPLIT) == train_split
    _, item = np.unique(ids, return_inverse=True)
    return np.bincount(item, weights=train)[item].astype(np.int64)
