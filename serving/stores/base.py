"""What every behavior store can do."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from serving.stores.records import (
    Header,
    checked_events,
    checked_profile,
    checked_user_id,
    pack_rows,
    unpack_rows,
)

LIMIT = 100_000
"""Events kept of a user unless another limit is asked for."""

_Ids = Sequence[int] | np.ndarray | int
Events = tuple[int, _Ids, _Ids]
CheckedEvents = tuple[int, np.ndarray, np.ndarray]
CheckedUser = tuple[Header, np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class UserHistory:
    """What a store knows about a user. Do not write into the arrays.

    All arrays are oldest first, as models take them.

    Attributes:
        user_id: the user.
        profile: int64 (5,), zeros if none was set.
        item_ids: int64 (N,).
        category_ids: int64 (N,).
        rows: int32 (N,), rows of the item table that `table_stamp` names; -1
            is padding, 0 an unknown item. None if there are none for every
            one of these events.
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

    def newest(self, count: int) -> UserHistory:
        """Returns the history with its newest `count` events only."""
        start = max(0, len(self) - count)
        return dataclasses.replace(
            self,
            item_ids=self.item_ids[start:],
            category_ids=self.category_ids[start:],
            rows=None if self.rows is None else self.rows[start:],
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
    """A note that a bulk load leaves in the store."""

    name: str
    text: str


class BehaviorStore(abc.ABC):
    """Histories of users.

    Threads may share a store. Every method raises `StoreUnavailableError`
    where the store does not answer, `StoreCorruptError` where a record
    cannot be trusted, `StoreError` for anything else that is the store's,
    and `ValueError` for wrong arguments, which are checked before anything
    is written.

    Args:
        limit: events kept of a user.

    Attributes:
        limit: as given.
        is_new: whether opening made it; `remove` then deletes what was made.
    """

    is_new = False

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"limit: expected 1 or more. Received: {limit}")
        self.limit = limit

    def remove(self) -> None:  # noqa: B027
        """Deletes the store's files, where it has files of its own."""

    def read(
        self, user_id: int, limit: int | None = None
    ) -> UserHistory | None:
        """Reads the newest events of a user, in one round trip.

        Args:
            user_id: the user.
            limit: at most so many events; the store's limit by default.

        Returns:
            The history, or None for an unknown user.
        """
        wanted = self.limit if limit is None else _checked_limit(limit)
        return self._read(checked_user_id(user_id), min(wanted, self.limit))

    def append(
        self,
        user_id: int,
        item_ids: _Ids,
        category_ids: _Ids,
    ) -> None:
        """Appends events of a user: all of them, durably, or none.

        The oldest events beyond the store's limit are dropped.

        Args:
            user_id: the user; a new one is made.
            item_ids: one id, or several, oldest first; none 0.
            category_ids: as many.
        """
        self.append_many([(user_id, item_ids, category_ids)])

    def append_many(self, events: Iterable[Events]) -> None:
        """Appends events of several users.

        Each user's events are written whole or not at all.

        Args:
            events: user id, item ids and category ids, oldest first.
        """
        self._append_many(
            [
                (checked_user_id(user), *checked_events(items, categories))
                for user, items, categories in events
            ]
        )

    def set_profile(
        self, user_id: int, profile: Sequence[int] | np.ndarray
    ) -> None:
        """Sets a user's profile, five ids; a new user is made."""
        self._set_profile(checked_user_id(user_id), checked_profile(profile))

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
        values = np.asarray(rows, np.int32)
        return self._set_rows(
            checked_user_id(user_id), values, table_stamp, end
        )

    def trim(self, user_id: int, limit: int) -> None:
        """Drops all but the newest `limit` events of a user."""
        self._trim(checked_user_id(user_id), _checked_limit(limit))

    def replace_many(
        self, users: Sequence[UserRecord], mark: Mark | None = None
    ) -> None:
        """Writes whole users in place of what was there.

        Args:
            users: the users; the last record of an id is kept.
            mark: a note kept with them; there whenever they are.
        """
        checked = []
        for user in users:
            profile = user.profile
            header = Header(
                checked_user_id(user.user_id),
                profile=None if profile is None else checked_profile(profile),
            )
            events = checked_events(user.item_ids, user.category_ids)
            checked.append((header, *events))
        self._replace_many(checked, mark)

    def delete_many(self, user_ids: Iterable[int]) -> int:
        """Deletes users with all that is known of them, damaged ones too.

        Args:
            user_ids: the users; unknown ones are ignored.

        Returns:
            How many were there.
        """
        return self._delete_many(sorted(set(map(checked_user_id, user_ids))))

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

    def __exit__(self, *_: object) -> None:
        self.close()

    # What a store implements; the arguments are checked.

    @abc.abstractmethod
    def _read(self, user_id: int, count: int) -> UserHistory | None: ...

    @abc.abstractmethod
    def _append_many(self, users: list[CheckedEvents]) -> None: ...

    @abc.abstractmethod
    def _set_profile(self, user_id: int, profile: tuple[int, ...]) -> None: ...

    @abc.abstractmethod
    def _set_rows(
        self, user_id: int, rows: np.ndarray, table_stamp: int, end: int | None
    ) -> bool: ...

    @abc.abstractmethod
    def _trim(self, user_id: int, limit: int) -> None: ...

    @abc.abstractmethod
    def _replace_many(
        self, users: list[CheckedUser], mark: Mark | None
    ) -> None: ...

    @abc.abstractmethod
    def _delete_many(self, user_ids: list[int]) -> int: ...


def history_of(
    header: Header,
    end: int,
    events: tuple[np.ndarray, np.ndarray],
    resolved: bytes | memoryview | None,
    rows_key: str,
) -> UserHistory:
    """Makes a history of the records that a store has read."""
    rows, stamp = None, None
    if resolved is not None:
        rows, stamp = unpack_rows(
            header.user_id, resolved, rows_key, end, len(events[0])
        )
    return UserHistory(
        header.user_id, header.profile_array(), *events, rows, stamp, end
    )


def rows_record(
    user_id: int,
    rows: np.ndarray,
    table_stamp: int,
    count: int,
    end: int,
) -> bytes:
    """Returns the record of rows for the newest `count` events."""
    if rows.shape != (count,):
        raise ValueError(
            f"rows: expected one for each of the {count} events of the "
            f"history. Received: shape {rows.shape}"
        )
    return pack_rows(user_id, end - count, end, table_stamp, rows)


def _checked_limit(limit: int) -> int:
    if limit < 0:
        raise ValueError(f"limit: expected 0 or more. Received: {limit}")
    return limit
