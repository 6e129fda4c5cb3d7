"""Checks that the impressions and events of a log fit its declaration."""

from __future__ import annotations

import datetime
import zoneinfo
from collections.abc import Iterator, Mapping
from typing import Any

from muse_tools.datasets.errors import DataError
from schemas.ranking_schema import Log


def problems(
    log: Log, shown: Mapping[str, Any], events: Mapping[str, Any] | None
) -> Iterator[DataError]:
    """Yields what leaves a split or all histories of a log empty.

    `shown` and `events` are the sections of `table_inspection`.
    """
    for split, rows in shown["splits"].items():
        if shown["accepted"] and not rows:
            days = " to ".join(map(str, getattr(log, split)))
            first, last = (_day(shown[key], log) for key in ("first", "last"))
            yield DataError(
                "EMPTY_SPLIT",
                f"log.{split}: no impression is from {days}; the impressions "
                f"are from {first} to {last}.",
                f"declare days of log.{split} that have impressions.",
            )
    if events and events["accepted"]:
        yield from _without_histories(log, shown, events)


def _day(moment: str, log: Log) -> datetime.date:
    zone = zoneinfo.ZoneInfo(log.timezone)
    return datetime.datetime.fromisoformat(moment).astimezone(zone).date()


def _without_histories(
    log: Log, shown: Mapping[str, Any], events: Mapping[str, Any]
) -> Iterator[DataError]:
    """Yields why events are in no history."""
    if absent := events.get("absent_actions"):
        known = ", ".join(events["actions"])
        yield DataError(
            "NO_SUCH_ACTION",
            f"log.keep: no event has the action {', '.join(absent)}; the "
            f"actions in column {log.action} are {known}.",
            "declare actions of log.keep that occur.",
        )
    if not shown["accepted"]:
        return
    if not events["of_users_shown"]:
        yield DataError(
            "NO_HISTORY",
            "events: no event belongs to a user of the impressions, so all "
            "histories would be empty.",
            "write the same user ids into events and impressions.",
        )
    elif events["first"] >= shown["last"]:
        yield DataError(
            "NO_HISTORY",
            f"events: the first event ({events['first']}) is not before the "
            f"last impression ({shown['last']}), so all histories would be "
            "empty.",
            "write events from before the impressions, and check log.time, "
            "log.event_time and log.timezone.",
        )
