"""What every behaviour store can do."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import NamedTuple

import numpy as np

__all__ = [
    "LIMIT",
    "BehaviorStore",
    "Mark",
    "OldestFirst",
    "StoreStats",
    "UserHistory",
    "UserRecord",
]

LIMIT = 100_000
"""Events kept of a user unless another limit is asked for."""

Events = tuple[int, Sequence[int] | np.ndarray, Sequence[int] | np.ndarray]


class OldestFirst(NamedTuple):
    """A history in the order in which models take it.

    Attributes:
        item_ids: int64 (N,).
        category_ids: int64 (N,).
        rows: int32 (N,), or None.
    """

    item_ids: np.ndarray
    category_ids: np.ndarray
    rows: np.ndarray | None


@dataclasses.dataclass(frozen=True, eq=False)
class UserHistory:
    """What a store knows about a user. Do not write into the arrays.

    Attributes:
        user_id: the user.
        profile: int64 (5,), zeros if none was set.
        item_ids: int64 (N,), newest first.
        category_ids: int64 (N,), newest first.
        rows: int32 (N,), newest first: rows of the item table that
            `table_stamp` names; -1 is padding, 0 an unknown item. None if
            there are none for every one of these events.
        table_stamp: which item table; None without rows.
        end: how many events were ever appended for this user. It grows with
            each, so it tells two states of a history apart.
    """

    user_id: int
    profile: np.ndarray
    item_ids: np.ndarray
    category_ids: np.ndarray
    rows: np.ndarray | None
    table_stamp: int | None
    end: int

    def oldest_first(self) -> OldestFirst:
        """Returns the events oldest first, contiguous."""
        return OldestFirst(
            np.ascontiguousarray(self.item_ids[::-1]),
            np.ascontiguousarray(self.category_ids[::-1]),
            None
            if self.rows is None
            else np.ascontiguousarray(self.rows[::-1]),
        )

    def __len__(self) -> int:
        return len(self.item_ids)


@dataclasses.dataclass(frozen=True)
class StoreStats:
    """Size of a store.

    Attributes:
        users: users known.
        events: events kept of all of them.
        rows: users with resolved rows, current or not.
        bytes: what the store takes: of the file, or of the server's memory.
        limit: events kept of a user.
    """

    users: int
    events: int
    rows: int
    bytes: int
    limit: int


class UserRecord(NamedTuple):
    """A whole user, as bulk loading writes one.

    Attributes:
        user_id: the user.
        profile: five ids, or None to leave it unknown.
        item_ids: int64 (N,), oldest first, none 0.
        category_ids: int64 (N,).
    """

    user_id: int
    profile: Sequence[int] | np.ndarray | None
    item_ids: Sequence[int] | np.ndarray
    category_ids: Sequence[int] | np.ndarray


class Mark(NamedTuple):
    """A note that a bulk load leaves in the store.

    Attributes:
        name: whose note.
        text: the note.
    """

    name: str
    text: str


class BehaviorStore(abc.ABC):
    """Histories of users, newest events first.

    Threads may share a store. Every method raises `StoreUnavailableError`
    where the store does not answer, `StoreCorruptError` where a record
    cannot be trusted, `StoreError` for anything else that is the store's,
    and `ValueError` for wrong arguments.

    Attributes:
        limit: events kept of a user.
    """

    limit: int

    @abc.abstractmethod
    def read(
        self, user_id: int, limit: int | None = None
    ) -> UserHistory | None:
        """Reads the newest events of a user, in one round trip.

        Args:
            user_id: the user.
            limit: at most so many events; the store's limit by default.

        Returns:
            The history, or None for a user who is not known.
        """

    def append(
        self,
        user_id: int,
        item_ids: Sequence[int] | np.ndarray | int,
        category_ids: Sequence[int] | np.ndarray | int,
    ) -> None:
        """Appends events of a user: all of them, durably, or none.

        What is beyond the store's limit is dropped, oldest first.

        Args:
            user_id: the user; a new one is made.
            item_ids: one id, or several, oldest first; none 0.
            category_ids: as many.
        """
        items, categories = np.asarray(item_ids), np.asarray(category_ids)
        if items.ndim == 0:
            items = items[None]
        if categories.ndim == 0:
            categories = categories[None]
        self.append_many([(user_id, items, categories)])

    @abc.abstractmethod
    def append_many(self, events: Iterable[Events]) -> None:
        """Appends events of several users.

        Each user's events are written whole or not at all. All arguments
        are looked at before anything is written.

        Args:
            events: user id, item ids and category ids, oldest first.
        """

    @abc.abstractmethod
    def set_profile(
        self, user_id: int, profile: Sequence[int] | np.ndarray
    ) -> None:
        """Sets a user's profile, five ids; a new user is made."""

    @abc.abstractmethod
    def set_rows(
        self,
        user_id: int,
        rows: Sequence[int] | np.ndarray,
        table_stamp: int,
        *,
        end: int | None = None,
    ) -> bool:
        """Keeps the rows that a user's history resolves to.

        They count until the next append.

        Args:
            user_id: a known user.
            rows: int32, oldest first, one for each event that `read` gives.
            table_stamp: identifies the item table.
            end: `UserHistory.end` of the history that was resolved. Give it
                where events may be appended meanwhile.

        Returns:
            False if the history went on since `end`: nothing is kept.

        Raises:
            ValueError: not one row per event.
        """

    @abc.abstractmethod
    def trim(self, user_id: int, limit: int) -> None:
        """Drops all but the newest `limit` events of a user."""

    @abc.abstractmethod
    def replace_many(
        self, users: Sequence[UserRecord], mark: Mark | None = None
    ) -> None:
        """Writes whole users in place of what was there.

        Args:
            users: the users; of equal ids the last counts.
            mark: a note kept with them; there whenever they are.
        """

    @abc.abstractmethod
    def delete_many(self, user_ids: Iterable[int]) -> int:
        """Deletes users with all that is known of them, damaged ones too.

        Args:
            user_ids: the users; those who are not known do not matter.

        Returns:
            How many were there.
        """

    @abc.abstractmethod
    def read_mark(self, name: str) -> str | None:
        """Returns the text of a `Mark`."""

    @abc.abstractmethod
    def user_ids(self) -> Iterator[int]:
        """Yields every known user, in no order that means anything."""

    @abc.abstractmethod
    def stats(self) -> StoreStats:
        """Returns the size of the store."""

    @abc.abstractmethod
    def close(self) -> None:
        """Closes the store; a second time does nothing."""

    def __enter__(self) -> BehaviorStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def check_limit(limit: int | None, most: int) -> int:
    """Returns how many events to read.

    Raises:
        ValueError: below 0.
    """
    if limit is None:
        return most
    if limit < 0:
        raise ValueError(f"limit: expected 0 or more. Received: {limit}")
    return min(limit, most)
