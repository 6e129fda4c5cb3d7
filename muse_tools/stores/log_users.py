"""Reads single users of an event log, with histories as of an impression."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from muse_tools.datasets import raw_tables, user_lookup, validation
from muse_tools.datasets.arrow_lists import find_sorted
from muse_tools.datasets.errors import DataError
from schemas.ranking_schema import Log
from tfx_pipeline.features import EVAL_SPLIT, TRAIN_SPLIT
from tfx_pipeline.transforms import arrow_batches, event_histories
from tfx_pipeline.transforms.steps import POSITION

TIMES = "behavior_times"


class LogUsers:
    """Users with impressions in a split, ``train`` or ``test``.

    A user's history ends where that of the user's first impression in the split
    ends, so that it does not contain the outcome of that impression.
    """

    def __init__(self, tables: raw_tables.RawTables, split: str) -> None:
        log = tables.declared.log
        if log is None:
            raise ValueError("`tables` must be those of an event log.")
        self._tables, self._log = tables, log
        name = TRAIN_SPLIT if split == "train" else EVAL_SPLIT
        self._first, self._end = log.seconds(name)
        tables[raw_tables.IMPRESSIONS].check()
        tables[raw_tables.EVENTS].check()

    @functools.cached_property
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Sorted user ids and the ends of their histories, both int64 (U,)."""
        ids, ends = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for batch in self.impressions():
            users = arrow_batches.numpy_column(batch, raw_tables.USER_ID)
            ids.append(users)
            ends.append(
                event_histories.request_ends(batch, users, self._log)[0]
            )
        known, place = np.unique(np.concatenate(ids), return_inverse=True)
        first = np.full(len(known), np.iinfo(np.int64).max)
        np.minimum.at(first, place.reshape(-1), np.concatenate(ends))
        return known, first

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Upper bounds of the history lengths of `ends`, int64 (U,)."""
        known, ends = self.ends
        found = np.zeros(len(known), np.int64)
        for batch in self._events():
            place, is_known = find_sorted(
                known, arrow_batches.numpy_column(batch, raw_tables.USER_ID)
            )
            place = place[is_known]
            times = event_histories.known_times(batch)[is_known]
            np.add.at(found, place[times < ends[place]], 1)
        return np.minimum(found, self._log.max_history)

    def impressions(
        self, user_id: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yields usable impressions of the split, for one user or for all."""
        for batch in _usable(self._tables[raw_tables.IMPRESSIONS], user_id):
            times = batch[raw_tables.TIME]
            inside = pc.and_(
                pc.greater_equal(times, self._first), pc.less(times, self._end)
            )
            yield batch.filter(inside)

    def _events(self, user_id: int | None = None) -> Iterator[pa.RecordBatch]:
        for batch in _usable(self._tables[raw_tables.EVENTS], user_id):
            yield event_histories.behaviors(batch, self._log)

    def find(self, user_id: int) -> dict[str, Any]:
        """Returns the fields of a `RankRequest` except the candidates.

        The additional field ``times`` has the seconds of the behaviors.

        Raises:
            DataError: if the user has no impression in the split.
        """
        known, ends = self.ends
        place = int(np.searchsorted(known, user_id))
        if place == len(known) or known[place] != user_id:
            example = f", for example {known[0]}" if len(known) else ""
            raise DataError(
                "UNKNOWN_USER",
                f"table {raw_tables.IMPRESSIONS}: no user {user_id} in the "
                "days of the split.",
                f"choose a user of that table{example}.",
            )
        return history(self._tables, self._log, user_id, int(ends[place]))


def find_user(
    directory: pathlib.Path, user_id: int, split: str = "test"
) -> dict[str, Any]:
    """Returns the fields of a `RankRequest` except the candidates.

    The history from an event log is that of a request at the end of the split's
    last day.
    """
    tables = raw_tables.RawTables.open(directory)
    log = tables.declared.log
    if log is None:
        return user_lookup.find_user(directory, user_id, split)
    name = TRAIN_SPLIT if split == "train" else EVAL_SPLIT
    end = log.seconds(name)[1] - log.delay_s
    found = history(tables, log, user_id, end)
    found.pop("times")
    return found


def history(
    tables: raw_tables.RawTables, log: Log, user_id: int, end: int
) -> dict[str, Any]:
    """Returns the features of a user, and the events before a second.

    Raises:
        DataError: if no table has the user.
    """
    features = tables.declared.features
    events = [
        event_histories.behaviors(batch, log)
        for batch in _usable(tables[raw_tables.EVENTS], user_id)
    ]
    users = (
        [*_usable(tables[raw_tables.USERS], user_id)]
        if raw_tables.USERS in tables
        else []
    )
    users = [batch for batch in users if batch.num_rows]
    if not users and not any(batch.num_rows for batch in events):
        raise DataError(
            "UNKNOWN_USER",
            f"tables {raw_tables.EVENTS} and {raw_tables.USERS}: no user "
            f"{user_id}.",
            "choose a user of those tables, or give --request FILE.json.",
        )
    columns = _cut(events, end, log)
    times = columns.get(TIMES, np.zeros(0, np.int64))
    found: dict[str, Any] = {}
    for name, feature in features.behavior.items():
        if feature.time:
            found[name] = (end + log.delay_s - times).astype(np.float32)
        elif name not in features.of_items:
            found[name] = columns.get(f"behavior_{name}", times[:0])
    return {
        "user_id": user_id,
        "user": {
            name: users[0][f"user_{name}"][0].as_py()
            for name in features.user
            if users
        },
        "behavior_item_ids": columns.get(
            raw_tables.BEHAVIOR_ITEM_IDS, times[:0]
        ),
        "behaviors": found,
        "times": times,
    }


def _cut(
    events: list[pa.RecordBatch], end: int, log: Log
) -> dict[str, np.ndarray]:
    """Returns the newest events of one user before the second `end`."""
    whole = arrow_batches.concatenate(events)
    if whole is None:
        return {}
    whole = whole.filter(pa.array(~event_histories.is_repeated(whole)))
    times = arrow_batches.column(whole, raw_tables.TIME)
    whole = arrow_batches.append(whole, **{TIMES: times})
    user_rows = np.zeros(whole.num_rows, np.int64)
    lists = event_histories.EventHistories(whole, user_rows, log).before(
        np.zeros(1, np.int64), np.array([end])
    )
    return {
        name: np.asarray(values.flatten()) for name, values in lists.items()
    }


def _usable(
    table: raw_tables.RawTable, user_id: int | None
) -> Iterator[pa.RecordBatch]:
    """Yields usable rows with their positions in the table."""
    position = 0
    for batch in table.iter_batches():
        place = np.arange(position, position + batch.num_rows)
        position += batch.num_rows
        batch = arrow_batches.append(batch, **{POSITION: pa.array(place)})
        if user_id is not None:
            batch = batch.filter(pc.equal(batch[raw_tables.USER_ID], user_id))
        yield validation.validate(table.name, batch).good
