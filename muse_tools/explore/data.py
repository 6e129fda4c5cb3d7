"""Users, impressions and names of items of a raw data set.

For an event log, the users are those with impressions in the split's days.
"""

from __future__ import annotations

import functools
import itertools
import pathlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from muse_tools.datasets import raw_tables, user_lookup, validation
from muse_tools.explore.words import Words

if TYPE_CHECKING:
    from muse_tools.stores.log_users import LogUsers

LISTED_USERS = 10_000
"""Number of users in the list; all others can be opened by id."""
_CACHED_USERS = 64


class ListedUser(NamedTuple):
    """A user in the list."""

    user_id: int
    history_length: int


class Impression(NamedTuple):
    """An item that was shown to a user, with whether it was ever clicked."""

    item_id: int
    clicked: bool
    times: int


class ExplorerData:
    """A raw data set, read for one user at a time.

    Raises:
        DataError: if a table is missing or broken.
    """

    def __init__(self, directory: pathlib.Path, split: str = "test") -> None:
        self.directory, self.split = directory, split
        tables = raw_tables.RawTables.open(directory)
        self.declared = tables.declared
        self._log: LogUsers | None = None
        if tables.declared.log:
            from muse_tools.stores.log_users import LogUsers  # Beam is slow.

            self._log = LogUsers(tables, split)
        else:
            self._users = tables[f"{split}_user_features"]
            self._samples = tables[f"{split}_samples"]
            for table in (self._users, self._samples):
                table.check()
        self.words = Words(tables)
        self._names = user_lookup.read_names(directory)
        self.user = functools.lru_cache(_CACHED_USERS)(self._user)
        self.impressions = functools.lru_cache(_CACHED_USERS)(self._impressions)

    @functools.cached_property
    def num_users(self) -> int:
        """The number of users."""
        if self._log:
            return len(self._log.ends[0])
        return self._users.num_rows()

    @functools.cached_property
    def listed(self) -> list[ListedUser]:
        """The first users of the data set, longest histories first."""
        found = self._lengths()
        shown = [ListedUser(*row) for row in found.items()][:LISTED_USERS]
        return sorted(shown, key=lambda u: (-u.history_length, u.user_id))

    def _lengths(self) -> dict[int, int]:
        if self._log:
            ids = self._log.ends[0].tolist()
            return dict(zip(ids, self._log.lengths.tolist(), strict=True))
        found: dict[int, int] = {}
        columns = [raw_tables.USER_ID, raw_tables.BEHAVIOR_ITEM_IDS]
        for batch in self._users.iter_batches(columns):
            lengths = pc.fill_null(pc.list_value_length(batch.column(1)), 0)
            for user, length in zip(
                batch.column(0).to_pylist(), lengths.to_pylist(), strict=True
            ):
                if user is not None:
                    # If a user has several rows, the first one is used, as in
                    # the join.
                    found.setdefault(user, length)
            if len(found) >= LISTED_USERS:
                break
        return found

    def find_users(self, query: str, limit: int) -> list[ListedUser]:
        """Returns listed users whose id starts with `query`."""
        chosen = (u for u in self.listed if str(u.user_id).startswith(query))
        return list(itertools.islice(chosen, limit))

    def names(self, item_ids: Iterable[int]) -> list[tuple[str, str]]:
        """Returns name and category of items; `item ID` and "" if unknown.

        The category of an item without one is its first matched feature.
        """
        wanted = list(item_ids)
        places = pc.index_in(
            pa.array(wanted, pa.int64()), value_set=self._names["item_id"]
        )
        found = self._names.take(places).to_pylist()
        categories = [row["category"] for row in found]
        matches = self.declared.features.matches
        if matches and not all(categories):
            categories = [
                category or features.get(matches[0], "")
                for category, features in zip(
                    categories, self.words.items(wanted), strict=True
                )
            ]
        return [
            (row["name"] or f"item {item}", category or "")
            for item, row, category in zip(
                wanted, found, categories, strict=True
            )
        ]

    def find_items(self, query: str, limit: int) -> list[int]:
        """Returns items whose name contains `query`, ignoring case."""
        if not query or not len(self._names):
            return []
        found = pc.match_substring(self._names["name"], query, ignore_case=True)
        rows = pc.indices_nonzero(pc.fill_null(found, False))[:limit]
        return self._names["item_id"].take(rows).to_pylist()

    def _user(self, user_id: int) -> dict[str, Any]:
        """Returns the fields of a `RankRequest` without candidates."""
        if self._log:
            return self._log.find(user_id)
        return user_lookup.find_user(self.directory, user_id, self.split)

    def _impressions(self, user_id: int) -> list[Impression]:
        """Returns the distinct items that were shown to the user."""
        times: dict[int, int] = {}
        clicked: dict[int, bool] = {}
        for good in self._shown(user_id):
            items = good[raw_tables.ITEM_ID].to_pylist()
            for item, click in zip(items, validation.clicks(good), strict=True):
                times[item] = times.get(item, 0) + 1
                clicked[item] = clicked.get(item, False) or bool(click)
        return [Impression(i, clicked[i], times[i]) for i in times]

    def _shown(self, user_id: int) -> Iterator[pa.RecordBatch]:
        if self._log:
            yield from self._log.impressions(user_id)
            return
        for batch in self._samples.iter_batches():
            mine = pc.equal(batch[raw_tables.USER_ID], user_id)
            yield validation.validate("samples", batch.filter(mine)).good
