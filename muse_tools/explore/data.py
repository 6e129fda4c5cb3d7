"""Users, impressions and names of items of a raw data set."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from muse_tools.datasets import raw_tables, user_lookup
from muse_tools.datasets.errors import DataError

LISTED_USERS = 10_000
"""Users that are listed; any other can be asked for by id."""
_CACHED_USERS = 64


@dataclasses.dataclass(frozen=True)
class ListedUser:
    """A user of the list."""

    user_id: int
    history_length: int


@dataclasses.dataclass(frozen=True)
class Impression:
    """An item that was shown to a user, clicked at least once or never."""

    item_id: int
    clicked: bool
    times: int


class ExplorerData:
    """A raw data set, read for one user at a time.

    Raises DataError where a table is missing or broken.
    """

    def __init__(self, directory: pathlib.Path, split: str = "test") -> None:
        self.directory, self.split = directory, split
        tables = raw_tables.RawTables.open(directory)
        self._users = tables[f"{split}_user_features"]
        self._samples = tables[f"{split}_samples"]
        for table in (self._users, self._samples):
            table.check()
        self._names = _read_names(directory)
        self.user = functools.lru_cache(_CACHED_USERS)(self._user)
        self.impressions = functools.lru_cache(_CACHED_USERS)(self._impressions)

    @functools.cached_property
    def num_users(self) -> int:
        """Users of the table."""
        return self._users.num_rows()

    @functools.cached_property
    def listed(self) -> list[ListedUser]:
        """The first users of the table, longest histories first."""
        found: dict[int, int] = {}
        columns = [raw_tables.USER_ID, raw_tables.BEHAVIOR_ITEM_IDS]
        for batch in self._users.iter_batches(columns):
            lengths = pc.fill_null(pc.list_value_length(batch.column(1)), 0)
            for user, length in zip(
                batch.column(0).to_pylist(), lengths.to_pylist(), strict=True
            ):
                if user is not None:
                    # The first row of a user counts, as in the join.
                    found.setdefault(user, length)
            if len(found) >= LISTED_USERS:
                break
        shown = [ListedUser(*row) for row in found.items()][:LISTED_USERS]
        return sorted(shown, key=lambda u: (-u.history_length, u.user_id))

    def find_users(self, query: str, limit: int) -> list[ListedUser]:
        """Returns listed users whose id starts with `query`."""
        chosen = (u for u in self.listed if str(u.user_id).startswith(query))
        return [user for user, _ in zip(chosen, range(limit), strict=False)]

    def names(self, item_ids: Iterable[int]) -> list[tuple[str, str]]:
        """Returns name and category of items, `item ID` and "" if unknown."""
        wanted = list(item_ids)
        if self._names is None:
            return [(f"item {item}", "") for item in wanted]
        places = pc.index_in(
            pa.array(wanted, pa.int64()), value_set=self._names["item_id"]
        )
        return [
            (f"item {item}", "")
            if place is None
            else (
                self._names["name"][place].as_py() or f"item {item}",
                self._names["category"][place].as_py() or "",
            )
            for item, place in zip(wanted, places.to_pylist(), strict=True)
        ]

    def find_items(self, query: str, limit: int) -> list[int]:
        """Returns items whose name has `query` in it, whatever its case."""
        if self._names is None or not query:
            return []
        found = pc.match_substring(self._names["name"], query, ignore_case=True)
        rows = np.flatnonzero(
            pc.fill_null(found, False).to_numpy(zero_copy_only=False)
        )[:limit]
        return self._names["item_id"].take(pa.array(rows)).to_pylist()

    def _user(self, user_id: int) -> dict[str, Any]:
        """Returns the fields of a `RankRequest` but the candidates."""
        return user_lookup.find_user(self.directory, user_id, self.split)

    def _impressions(self, user_id: int) -> list[Impression]:
        """Returns the distinct items that were shown to the user."""
        times: dict[int, int] = {}
        clicked: dict[int, bool] = {}
        for batch in self._samples.iter_batches():
            mine = pc.equal(_column(batch, raw_tables.USER_ID), user_id)
            chosen = batch.filter(mine)
            labels = _column(chosen, raw_tables.LABEL).to_pylist()
            items = _column(chosen, raw_tables.ITEM_ID).to_pylist()
            for item, label in zip(items, labels, strict=True):
                times[item] = times.get(item, 0) + 1
                clicked[item] = clicked.get(item, False) or label[1] == 1
        return [Impression(i, clicked[i], times[i]) for i in times if i]


def _column(batch: pa.RecordBatch, code: str) -> pa.Array:
    return batch.column(batch.schema.get_field_index(code))


def _read_names(directory: pathlib.Path) -> dict[str, pa.Array] | None:
    """Returns `item_id`, `name` and `category` of the items that have any."""
    path = directory / user_lookup.NAMES_FILE
    if not path.is_file():
        return None
    try:
        table = pq.read_table(path)
        found = {
            "item_id": table["item_id"].combine_chunks(),
            "name": table["name"].combine_chunks().cast(pa.string()),
            "category": table["category"].combine_chunks().cast(pa.string())
            if "category" in table.column_names
            else pa.nulls(len(table), pa.string()),
        }
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise DataError(
            "UNREADABLE_FILE",
            f"{path} is not a table of item_id and name: {error}.",
            "write its columns item_id (int64) and name (string), or remove it "
            "to see ids instead of names.",
        ) from error
    return found
