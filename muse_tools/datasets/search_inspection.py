"""What is in the two search tables: one streaming pass over each.

The part of `inspect` for the optional tables ``item_content`` and
``search_events``.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Iterator
from typing import Any

from muse_tools.datasets import search_tables, search_validation, validation
from muse_tools.datasets.arrow_lists import Ints, list_lengths, values_of
from muse_tools.datasets.dataset_dir import Progress
from muse_tools.datasets.errors import DataError
from muse_tools.datasets.validation import share


def inspect_search(
    directory: str | os.PathLike[str], items: Ints | None, progress: Progress
) -> tuple[dict[str, dict[str, Any]], list[DataError]]:
    """Summarizes the search tables of a directory.

    Texts are counted, not encoded: a text without any word passes here.
    """
    sections: dict[str, dict[str, Any]] = {}
    problems: list[DataError] = []
    known: Ints | None = None
    widths: dict[str, int] = {}
    tables = search_tables.find_tables(directory)
    if tables and search_tables.ITEM_CONTENT not in tables:
        problems.append(
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
            widths = table.widths(declared=widths)
            counts = _Counts(table, widths, progress)
            if name == search_tables.ITEM_CONTENT:
                known = _inspect_content(counts)
                more: dict[str, Any] = {}
                if items is not None:
                    with_content = int(validation.contains(known, items).sum())
                    more["items_with_content"] = share(with_content, len(items))
            else:
                more = _inspect_events(counts, known)
            sections[name] = {**counts.section(), **more}
            counts.rows.check_usable(name)
        except DataError as error:
            problems.append(error)
    return sections, problems


def _inspect_content(counts: _Counts) -> Ints:
    unique = validation.UniqueKeys(
        search_tables.ITEM_ID, validation.DUPLICATE_ITEM
    )
    for valid in counts.batches():
        counts.add(valid, unique.check(valid.good))
    return unique.keys()


def _inspect_events(counts: _Counts, known: Ints | None) -> dict[str, Any]:
    dropped: collections.Counter[str] = collections.Counter()
    clicks, without_clicks = 0, 0
    times: list[int] = []
    for valid in counts.batches():
        steps = [valid]
        if known is not None:
            steps.append(
                validation.require_keys(
                    valid.good,
                    search_tables.PURCHASED_ITEM_ID,
                    known,
                    search_validation.UNKNOWN_PURCHASE,
                )
            )
        counts.add(*steps)
        good = steps[-1].good
        if known is not None:
            good, taken_out = search_validation.clean_clicks(good, known)
            dropped.update(taken_out)
        lengths = list_lengths(good[search_tables.CLICKED_ITEM_IDS])
        clicks += int(lengths.sum())
        without_clicks += int((lengths == 0).sum())
        times += values_of(good[search_tables.TIME]).tolist()
        times = [min(times), max(times)] if times else []
    return {
        "clicks_without_purchase": clicks,
        "events_without_clicks": without_clicks,
        "dropped_clicks": dict(sorted(dropped.items())),
        "first_time": times[0] if times else None,
        "last_time": times[1] if times else None,
    }


class _Counts:
    """Rows read, accepted and rejected, and how many have what."""

    def __init__(
        self,
        table: search_tables.SearchTable,
        widths: dict[str, int],
        progress: Progress,
    ) -> None:
        self.rows = validation.RowCounts()
        self._table = table
        self._widths = widths
        self._progress = progress
        self._present = dict.fromkeys(table.modalities, 0)
        self._total = max(1, table.rows.num_rows())

    def batches(self) -> Iterator[validation.Validated]:
        """Yields the rows checked by themselves; `add` what becomes of them."""
        for batch in self._table.rows.iter_batches():
            yield search_validation.validate(self._table, self._widths, batch)
            self._progress(
                f"reading {self._table.name}", self.rows.read / self._total
            )

    def add(self, *steps: validation.Validated) -> None:
        """Counts a batch that went through one rule after the other."""
        good = self.rows.add(*steps)
        for name, column in self._table.vectors.items():
            self._present[name] += int((list_lengths(good[column]) > 0).sum())
        if self._table.text:
            given = search_tables.texts(good[self._table.text])
            self._present[search_tables.TEXT] += sum(map(bool, given))

    def section(self) -> dict[str, Any]:
        return {
            **self.rows.to_dict(),
            "modalities": {
                name: {
                    "width": self._widths.get(name),
                    "present": share(count, self.rows.accepted),
                }
                for name, count in self._present.items()
            },
        }
