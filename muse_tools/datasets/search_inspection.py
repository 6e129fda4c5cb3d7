"""Summarizes ``item_content`` and ``search_events`` in one streaming pass.

This is the part of `inspect` for the two optional tables.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from muse_tools.datasets import search_tables, search_validation, validation
from muse_tools.datasets.arrow_lists import Ints, list_lengths, values_of
from muse_tools.datasets.dataset_dir import Progress
from muse_tools.datasets.errors import DataError
from muse_tools.datasets.reading import Reading
from muse_tools.datasets.validation import RowCounts, share


def inspect_search(
    directory: str | os.PathLike[str], items: Ints | None, reading: Reading
) -> dict[str, dict[str, Any]]:
    """Summarizes the search tables of a directory.

    Texts are counted but not encoded, so a text without words is accepted here.
    """
    sections: dict[str, dict[str, Any]] = {}
    known: Ints | None = None
    widths: dict[str, int] = {}
    tables = search_tables.find_tables(directory)
    if tables and search_tables.ITEM_CONTENT not in tables:
        reading.problems.append(
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
            if not table.of_items:  # `inspect` notes columns of the items.
                reading.unused_columns(table.rows, table.rows.file_schema())
            widths = table.widths(declared=widths)
            rows = RowCounts()
            present = dict.fromkeys(table.modalities, 0)
            batches = _accepted(
                table, widths, known, rows, present, reading.progress
            )
            if name == search_tables.ITEM_CONTENT:
                found = [values_of(b[search_tables.ITEM_ID]) for b in batches]
                known = np.sort(np.concatenate([np.zeros(0, np.int64), *found]))
                more: dict[str, Any] = {}
                if items is not None:
                    with_content = int(validation.contains(known, items).sum())
                    more["items_with_content"] = share(with_content, len(items))
            else:
                more = _inspect_events(batches, known)
            modalities = {
                one: {
                    "width": widths.get(one),
                    "present": share(count, rows.accepted),
                }
                for one, count in present.items()
            }
            sections[name] = rows.to_dict() | {"modalities": modalities} | more
            rows.check_usable(name)
        except DataError as error:
            reading.problems.append(error)
    return sections


def _accepted(
    table: search_tables.SearchTable,
    widths: dict[str, int],
    known: Ints | None,
    rows: RowCounts,
    present: dict[str, int],
    progress: Progress,
) -> Iterator[pa.RecordBatch]:
    """Yields the good rows, and counts rows and modalities."""
    unique = validation.UniqueKeys(
        search_tables.ITEM_ID, validation.DUPLICATE_ITEM
    )
    total = max(1, table.rows.num_rows())
    for batch in table.rows.iter_batches():
        steps = [search_validation.validate(table, widths, batch)]
        if table.name == search_tables.ITEM_CONTENT:
            steps.append(unique.check(steps[0].good))
        elif known is not None:
            steps.append(
                validation.require_keys(
                    steps[0].good,
                    search_tables.PURCHASED_ITEM_ID,
                    known,
                    search_validation.UNKNOWN_PURCHASE,
                )
            )
        good = rows.add(*steps)
        for name, column in table.vectors.items():
            present[name] += int((list_lengths(good[column]) > 0).sum())
        if table.text:
            given = search_tables.texts(good[table.text])
            present[search_tables.TEXT] += sum(map(bool, given))
        progress(f"reading {table.name}", rows.read / total)
        yield good


def _inspect_events(
    batches: Iterable[pa.RecordBatch], known: Ints | None
) -> dict[str, Any]:
    dropped: collections.Counter[str] = collections.Counter()
    clicks, without_clicks = 0, 0
    times: list[int] = []
    for good in batches:
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
