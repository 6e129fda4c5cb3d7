"""What is in the two search tables: one streaming pass over each.

The part of `inspect` for the optional tables ``item_content`` and
``search_events``.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from muse_tools.datasets import search_tables, search_validation, validation
from muse_tools.datasets.arrow_lists import values_of
from muse_tools.datasets.errors import DataError

__all__ = ["Inspected", "inspect_search"]

Progress = Callable[[str, float], None]


class Inspected:
    """Results for the two tables.

    Attributes:
        sections: Table name to what is in it; only tables that can be read.
        problems: Why a table cannot be used.
    """

    def __init__(self) -> None:
        self.sections: dict[str, dict[str, Any]] = {}
        self.problems: list[DataError] = []


def inspect_search(
    directory: str | os.PathLike[str],
    items: npt.NDArray[np.int64] | None,
    progress: Progress,
) -> Inspected:
    """Summarises the search tables of a directory.

    Texts are counted, not encoded: a text without any word passes here.

    Args:
        directory: Holds the tables or ``raw/``.
        items: Sorted ids of the items with features, if they are known.
        progress: Called as the work goes on.

    Returns:
        Sections and problems; both empty where there are no such tables.
    """
    found = Inspected()
    known: npt.NDArray[np.int64] | None = None
    widths: dict[str, int] = {}
    tables = search_tables.find_tables(directory)
    if tables and search_tables.ITEM_CONTENT not in tables:
        found.problems.append(
            DataError(
                "MISSING_TABLE",
                f"table {search_tables.ITEM_CONTENT}: not found in "
                f"{directory}, but {search_tables.SEARCH_EVENTS} is, whose "
                "items have to be described.",
                f"add {search_tables.ITEM_CONTENT}.parquet, or remove "
                f"{search_tables.SEARCH_EVENTS}.",
            )
        )
    for name in tables:
        try:
            table = search_tables.open_table(directory, name)
            if name == search_tables.ITEM_CONTENT:
                section, known, widths = _inspect_content(
                    table, items, progress
                )
            else:
                section = _inspect_events(table, known, widths, progress)
        except DataError as error:
            found.problems.append(error)
            continue
        found.sections[name] = section
        if not section["accepted"]:
            reasons = ", ".join(
                f"{count:,} {why}" for why, count in section["rejected"].items()
            )
            found.problems.append(
                DataError(
                    "NO_USABLE_ROWS",
                    f"table {name}: all {section['read']:,} rows are "
                    f"rejected: {reasons}.",
                    validation.hint_for(section["rejected"]),
                )
            )
    return found


def _inspect_content(
    table: search_tables.SearchTable,
    items: npt.NDArray[np.int64] | None,
    progress: Progress,
) -> tuple[dict[str, Any], npt.NDArray[np.int64], dict[str, int]]:
    widths = table.widths()
    unique = validation.UniqueKeys(
        search_tables.ITEM_ID, validation.DUPLICATE_ITEM
    )
    counts = _Counts(table, widths)
    for batch in table.rows.iter_batches():
        valid = search_validation.validate(table, widths, batch)
        first = unique.check(valid.good)
        counts.add(batch.num_rows, valid, first)
        progress(f"reading {table.name}", counts.share)
    section = counts.section()
    keys = unique.keys()
    if items is not None:
        with_content = int(validation.contains(keys, items).sum())
        section["items_with_content"] = _share(with_content, len(items))
    return section, keys, widths


def _inspect_events(
    table: search_tables.SearchTable,
    known: npt.NDArray[np.int64] | None,
    item_widths: dict[str, int],
    progress: Progress,
) -> dict[str, Any]:
    widths = table.widths(declared=item_widths)
    counts = _Counts(table, widths)
    dropped: collections.Counter[str] = collections.Counter()
    clicks, without_clicks = 0, 0
    times: list[int] = []
    for batch in table.rows.iter_batches():
        steps = [search_validation.validate(table, widths, batch)]
        if known is not None:
            steps.append(
                validation.require_keys(
                    steps[-1].good,
                    search_tables.PURCHASED_ITEM_ID,
                    known,
                    search_validation.UNKNOWN_PURCHASE,
                )
            )
        counts.add(batch.num_rows, *steps)
        good = steps[-1].good
        if known is not None:
            cleaned = search_validation.clean_clicks(good, known)
            good = cleaned.events
            dropped.update(cleaned.dropped)
        lengths = search_tables.vector_lengths(
            good[search_tables.CLICKED_ITEM_IDS]
        )
        clicks += int(lengths.sum())
        without_clicks += int((lengths == 0).sum())
        if good.num_rows:
            column = values_of(good[search_tables.TIME])
            times = [
                min([*times, int(column.min())]),
                max([*times, int(column.max())]),
            ]
        progress(f"reading {table.name}", counts.share)
    section = counts.section()
    return {
        **section,
        "clicks_without_purchase": clicks,
        "events_without_clicks": without_clicks,
        "dropped_clicks": dict(sorted(dropped.items())),
        "first_time": times[0] if times else None,
        "last_time": times[1] if times else None,
    }


class _Counts:
    """Rows read, accepted and rejected, and how many have what."""

    def __init__(
        self, table: search_tables.SearchTable, widths: dict[str, int]
    ) -> None:
        self._table = table
        self._widths = widths
        self._read = 0
        self._accepted = 0
        self._rejected: collections.Counter[str] = collections.Counter()
        self._present = dict.fromkeys(table.modalities, 0)
        self._total = max(1, table.rows.num_rows())

    @property
    def share(self) -> float:
        """Share of the table's rows read."""
        return self._read / self._total

    def add(self, read: int, *steps: validation.Validated) -> None:
        """Counts a batch that went through one rule after the other."""
        self._read += read
        for step in steps:
            self._rejected.update(step.counts)
        good = steps[-1].good
        self._accepted += good.num_rows
        for name, column in self._table.vectors.items():
            lengths = search_tables.vector_lengths(good[column])
            self._present[name] += int((lengths > 0).sum())
        if self._table.text:
            given = search_tables.texts(good[self._table.text])
            self._present[search_tables.TEXT] += sum(map(bool, given))

    def section(self) -> dict[str, Any]:
        """Returns the counts as JSON values."""
        return {
            "read": self._read,
            "accepted": self._accepted,
            "rejected": dict(sorted(self._rejected.items())),
            "modalities": {
                name: {
                    "width": self._widths.get(name),
                    "present": _share(count, self._accepted),
                }
                for name, count in self._present.items()
            },
        }


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None
