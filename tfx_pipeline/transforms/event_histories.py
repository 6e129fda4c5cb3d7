"""Cuts histories out of events, as of the time of each request."""

from __future__ import annotations

import zoneinfo
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from muse_tools.datasets import raw_tables
from muse_tools.datasets.arrow_lists import Ints, Mask, ranges, values_of
from schemas.columns import Feature
from schemas.ranking_schema import Log, RankingSchema
from tfx_pipeline.transforms import feature_columns
from tfx_pipeline.transforms.arrow_batches import column, numpy_column
from tfx_pipeline.transforms.steps import POSITION

DUPLICATE_EVENT = "duplicate event"


class EventHistories:
    """The events of some users, from which histories are cut.

    An event is visible from the second at which it became known.

    Args:
        events: rows with an item, a time, a position and behavior features.
        user_rows: int64 (E,), the user of each event, not below 0.
        log: settings of histories.
        since: names of behavior features with the seconds since the event.
    """

    def __init__(
        self,
        events: pa.RecordBatch,
        user_rows: Ints,
        log: Log,
        since: Sequence[str] = (),
    ) -> None:
        times = known_times(events)
        position = numpy_column(events, POSITION)
        order = np.lexsort((position, times, user_rows))
        self._limit = log.max_history
        self._delay = log.delay_s
        self._since = tuple(since)
        self._happened = numpy_column(events, raw_tables.TIME)[order]
        self._columns = {
            raw_tables.BEHAVIOR_ITEM_IDS: column(events, raw_tables.ITEM_ID),
            **{
                name: column(events, name)
                for name in events.schema.names
                if name.startswith("behavior_")
            },
        }
        self._columns = {
            name: values.take(pa.array(order))
            for name, values in self._columns.items()
        }
        # Combines user and time into one number; ranks stand for the times.
        self._times = np.unique(times)
        places = np.searchsorted(self._times, times)
        self._keys = self._key(user_rows, places)[order]

    def _key(self, users: Ints, places: Ints | int) -> Ints:
        return users.astype(np.int64) * (len(self._times) + 1) + places

    def before(self, users: Ints, ends: Ints) -> dict[str, pa.ListArray]:
        """Returns R histories: the newest events before each end, oldest first.

        Args:
            users: int64 (R,), user of each history, as in `user_rows`.
            ends: int64 (R,), seconds; an event at this second is excluded.

        Returns:
            Lists (R,) of items and of each behavior feature. Ages are seconds
            until the end plus ``delay_s``: the request or, with ``as_of: day``,
            the start of its day.
        """
        places = np.searchsorted(self._times, ends)
        stops = np.searchsorted(self._keys, self._key(users, places))
        starts = np.searchsorted(self._keys, self._key(users, 0))
        lengths = np.minimum(stops - starts, self._limit)
        offsets = np.r_[0, np.cumsum(lengths)]
        chosen = ranges(stops - lengths, lengths)
        found = {
            name: feature_columns.lists(offsets, values.take(pa.array(chosen)))
            for name, values in self._columns.items()
        }
        if self._since:
            ages = np.repeat(ends + self._delay, lengths)
            ages -= self._happened[chosen]
            since = pa.array(ages.astype(np.float32))
            found |= dict.fromkeys(
                self._since, feature_columns.lists(offsets, since)
            )
        return found


def no_events(declared: RankingSchema) -> pa.RecordBatch:
    """Returns an empty batch with the columns of events."""
    features = declared.features
    own = (raw_tables.USER_ID, raw_tables.ITEM_ID, raw_tables.TIME, POSITION)
    return pa.RecordBatch.from_pydict(
        {name: pa.array([], pa.int64()) for name in own}
        | {
            f"behavior_{name}": feature_columns.empty(
                features.of_behavior(name)
            )
            for name, one in features.behavior.items()
            if not one.time
        }
    )


def since_features(declared: RankingSchema) -> list[str]:
    """Returns the behavior features with the seconds since the event."""
    return [
        f"behavior_{name}"
        for name, one in declared.features.behavior.items()
        if one.time
    ]


def behaviors(events: pa.RecordBatch, log: Log) -> pa.RecordBatch:
    """Returns the events with an action in ``log.keep``; all if it is empty."""
    if not log.keep:
        return events
    actions = column(events, raw_tables.ACTION)
    return events.filter(pc.is_in(actions, pa.array(log.keep, pa.string())))


def known_times(events: pa.RecordBatch) -> Ints:
    """Returns the second from which each event is visible, int64 (E,)."""
    times = numpy_column(events, raw_tables.TIME)
    if raw_tables.KNOWN_TIME in events.schema.names:
        known = numpy_column(events, raw_tables.KNOWN_TIME)
        times = np.maximum(times, known)
    return times


def is_repeated(events: pa.RecordBatch) -> Mask:
    """Returns which events equal an earlier row of the table, bool (E,)."""
    keys = [
        values_of(column(events, name).dictionary_encode("encode").indices)
        for name in events.schema.names
        if name != POSITION
    ]
    order = np.lexsort((numpy_column(events, POSITION), *keys))
    found = np.zeros(events.num_rows, bool)
    found[order[1:]] = np.all(
        [key[order[1:]] == key[order[:-1]] for key in keys], axis=0
    )
    return found


def request_ends(
    samples: pa.RecordBatch, user_rows: Ints, log: Log
) -> tuple[Ints, Ints]:
    """Returns the end of the history and the request of each impression.

    Impressions with the same user, end and request form one request.

    Returns:
        Two int64 (N,): the second before which the history ends, and the id of
        the request, or 0 if user and end alone identify it.
    """
    times = numpy_column(samples, raw_tables.TIME)
    requests = np.zeros(len(times), np.int64)
    if log.as_of == "day":
        days = _moments(times, log).normalize()
        since = days - pd.Timestamp(0, tz="UTC")
        times = np.asarray(since // pd.Timedelta(1, "s"), np.int64)
    elif raw_tables.REQUEST_ID in samples.schema.names:
        requests = numpy_column(samples, raw_tables.REQUEST_ID)
        # A request begins with its first impression.
        _, number = np.unique(
            np.stack([user_rows, requests]), axis=1, return_inverse=True
        )
        number = number.reshape(-1)
        first = np.full(number.max(initial=-1) + 1, np.iinfo(np.int64).max)
        np.minimum.at(first, number, times)
        times = first[number]
    return times - log.delay_s, requests


def of_clock(times: Ints, feature: Feature, log: Log) -> Ints:
    """Returns the hour or the weekday of seconds (N,), int64, plus 1."""
    return np.asarray(getattr(_moments(times, log), feature.time), np.int64) + 1


def _moments(times: Ints, log: Log) -> pd.DatetimeIndex:
    """Returns seconds (N,) as timestamps in the time zone of a log."""
    moments = pd.DatetimeIndex(times.astype("datetime64[s]"), tz="UTC")
    return moments.tz_convert(zoneinfo.ZoneInfo(log.timezone))
