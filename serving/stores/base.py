"""What every behavior store can do."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from serving.stores.layout import Layout
from serving.stores.records import Codec, Header, pack_rows, unpack_rows
from serving.stores.values import Ids, UserId, Value, Values

LIMIT = 100_000
"""Events kept of a user unless another limit is asked for."""

CheckedUser = tuple[Header, np.ndarray]
"""Header, and words of events (see `Codec`), of a `UserRecord`."""


@dataclasses.dataclass(frozen=True, eq=False)
class UserHistory:
    """What a store knows about a user. Do not write into the arrays.

    All arrays are oldest first, as models take them.

    Attributes:
        user_id: the user.
        user: the user features of the layout, numbers or arrays (width,);
            None if none were set.
        item_ids: int64 (N,).
        behaviors: the behavior features of the layout, (N,) or (N, width)
            each.
        times: int64 (N,), seconds; None if the layout has none.
        rows: int32 (N,), rows of the item table that `table_stamp` names; -1
            is padding, 0 an unknown item. None if there are none for every
            one of these events.
        table_stamp: which item table; None without rows.
        end: how many events were ever appended for this user. It grows with
            each, so it tells two states of a history apart.
    """

    user_id: int
    user: dict[str, Any] | None
    item_ids: np.ndarray
    behaviors: dict[str, np.ndarray]
    times: np.ndarray | None
    rows: np.ndarray | None
    table_stamp: int | None
    end: int

    def newest(self, count: int) -> UserHistory:
        """Returns the history with its newest `count` events only."""
        start = max(0, len(self) - count)
        return dataclasses.replace(
            self,
            item_ids=self.item_ids[start:],
            behaviors={
                name: values[start:] for name, values in self.behaviors.items()
            },
            times=None if self.times is None else self.times[start:],
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
    """A user with features and events to write.

    Attributes:
        user_id: the user.
        user: user features by name; those left out are missing. None sets
            none.
        item_ids: one id, or several, oldest first; none 0.
        behaviors: behavior features by name, as many values as item ids;
            those left out are missing.
        times: seconds, as many as item ids, if the layout has times.
    """

    user_id: UserId
    user: Mapping[str, Value] | None = None
    item_ids: Ids = ()
    behaviors: Mapping[str, Values] = {}
    times: Ids | None = None


class Mark(NamedTuple):
    """A note that a bulk load leaves in the store."""

    name: str
    text: str


class BehaviorStore(abc.ABC):
    """Histories of users.

    Ids and categories may be texts where these are declared (`Texts`). Threads
    may share a store. Every method raises `StoreUnavailableError`
    where the store does not answer, `StoreMovedError` where another one took
    its place, `StoreCorruptError` where a record cannot be trusted,
    `StoreError` for anything else that is the store's, and `ValueError` for
    wrong arguments, such as features that the layout does not have, which are
    checked before anything is written.

    Args:
        limit: events kept of a user.

    Attributes:
        limit: as given.
        is_new: whether it was made when it was opened.
    """

    is_new = False
    _codec: Codec

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"limit: expected 1 or more. Received: {limit}")
        self.limit = limit

    @property
    def layout(self) -> Layout:
        """Which features it keeps."""
        return self._codec.layout

    def user_id(self, user_id: UserId) -> int:
        """Returns the id that the store has of a user, known or not."""
        return self._codec.checked_user_id(user_id)

    def read(
        self, user_id: UserId, limit: int | None = None
    ) -> UserHistory | None:
        """Reads the newest events of a user, in one round trip.

        Args:
            user_id: the user.
            limit: at most so many events; the store's limit by default.

        Returns:
            The history, or None for an unknown user.
        """
        wanted = self.limit if limit is None else _checked_limit(limit)
        return self._read(self.user_id(user_id), min(wanted, self.limit))

    def append(
        self,
        user_id: UserId,
        item_ids: Ids,
        behaviors: Mapping[str, Values] | None = None,
        user: Mapping[str, Value] | None = None,
        times: Ids | None = None,
    ) -> None:
        """Appends events of a user: all of them, durably, or none.

        The oldest events beyond the store's limit are dropped.

        Args:
            user_id: the user; a new one is made.
            item_ids: one id, or several, oldest first; none 0.
            behaviors: behavior features by name, as many values; those left
                out are missing.
            user: as in `set_user`, with the events or not at all; None leaves
                the user features as they are.
            times: seconds, as many as item ids, if the layout has times.
        """
        self.append_many(
            [UserRecord(user_id, user, item_ids, behaviors or {}, times)]
        )

    def append_many(self, users: Iterable[UserRecord]) -> None:
        """Appends events of several users.

        Each record is written whole or not at all.
        """
        self._append_many(list(map(self._checked, users)))

    def set_user(self, user_id: UserId, user: Mapping[str, Value]) -> None:
        """Sets all user features of a user; a new user is made.

        Args:
            user_id: the user.
            user: user features by name; those left out are missing.
        """
        self.append(user_id, (), user=user)

    def set_rows(
        self,
        user_id: UserId,
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
        return self._set_rows(self.user_id(user_id), values, table_stamp, end)

    def trim(self, user_id: UserId, limit: int) -> None:
        """Drops all but the newest `limit` events of a user."""
        self._trim(self.user_id(user_id), _checked_limit(limit))

    def replace_many(
        self, users: Iterable[UserRecord], mark: Mark | None = None
    ) -> None:
        """Writes whole users in place of what was there.

        Args:
            users: the users; the last record of an id is kept. Its user
                features, where it has None, are unknown.
            mark: a note kept with them; there whenever they are.
        """
        self._replace_many(list(map(self._checked, users)), mark)

    def delete_many(self, user_ids: Iterable[UserId]) -> int:
        """Deletes users with all that is known of them, damaged ones too.

        Args:
            user_ids: the users; unknown ones are ignored.

        Returns:
            How many were there.
        """
        return self._delete_many(sorted(set(map(self.user_id, user_ids))))

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
    def remove(self) -> None:
        """Removes a store without users, so that there is none."""

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
    def _append_many(self, users: list[CheckedUser]) -> None: ...

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

    def _checked(self, given: UserRecord) -> CheckedUser:
        codec, user = self._codec, given.user
        features = None if user is None else codec.checked_user(user)
        return (
            Header(codec.checked_user_id(given.user_id), user=features),
            codec.checked_events(given.item_ids, given.behaviors, given.times),
        )

    def _history(
        self,
        header: Header,
        end: int,
        events: np.ndarray,
        resolved: bytes | memoryview | None,
        rows_key: str,
    ) -> UserHistory:
        """Makes a history of the records that the store has read."""
        rows, stamp = None, None
        codec, items = self._codec, events[0]
        if resolved is not None:
            rows, stamp = unpack_rows(
                header.user_id, resolved, rows_key, end, len(items)
            )
        return UserHistory(
            header.user_id,
            None if header.user is None else codec.user_of(header.user),
            items,
            codec.behaviors_of(events),
            events[1] if codec.layout.times else None,
            rows,
            stamp,
            end,
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
