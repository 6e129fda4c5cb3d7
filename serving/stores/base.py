"""The interface of behavior stores."""

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
"""Default number of events that are kept of a user."""

CheckedUser = tuple[Header, np.ndarray]
"""Header and words of events (see `Codec`) of a `UserRecord`."""


@dataclasses.dataclass(frozen=True, eq=False)
class UserHistory:
    """The history of a user in a store. Do not modify the arrays.

    All arrays are oldest first, as the inputs of models are.

    Attributes:
        user_id: the user.
        user: the user features of the layout, numbers or arrays (width,);
            None if none were set.
        item_ids: int64 (N,).
        behaviors: the behavior features of the layout, each (N,) or
            (N, width).
        times: int64 (N,), seconds; None if the layout has no times.
        rows: int32 (N,), rows in the item table of `table_stamp`; -1 is
            padding, 0 an unknown item. None unless there is a row for each of
            these events.
        table_stamp: identifies the item table; None without rows.
        end: number of events ever appended for this user. It grows with each
            event, so it distinguishes states of a history.
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
        """Returns the history with only its newest `count` events."""
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
        users: number of users.
        events: number of stored events of all users.
        rows: number of users with resolved rows, current or not.
        bytes: size of the file, or memory of the server.
        limit: maximum number of events of a user.
    """

    users: int
    events: int
    rows: int
    bytes: int
    limit: int


class UserRecord(NamedTuple):
    """The features and events of a user to write.

    Attributes:
        user_id: the user.
        user: user features by name; those not given become missing. None does
            not set any.
        item_ids: one id, or several, oldest first, without 0.
        behaviors: behavior features by name, with one value per item id; those
            not given are missing.
        times: seconds, one per item id, if the layout has times.
    """

    user_id: UserId
    user: Mapping[str, Value] | None = None
    item_ids: Ids = ()
    behaviors: Mapping[str, Values] = {}
    times: Ids | None = None


class Mark(NamedTuple):
    """A note that a bulk load stores."""

    name: str
    text: str


class BehaviorStore(abc.ABC):
    """Histories of users.

    Ids and categories may be texts if they are declared as texts (`Texts`).
    Stores are thread-safe. Every method raises `StoreUnavailableError` if the
    store does not answer, `StoreMovedError` if it was replaced,
    `StoreCorruptError` if a record is invalid, `StoreError` for other failures
    of the store, and `ValueError` for wrong arguments, such as features that
    the layout does not have. Arguments are checked before anything is written.

    Args:
        limit: maximum number of events of a user.

    Attributes:
        limit: as given.
        is_new: whether opening the store created it.
    """

    is_new = False
    _codec: Codec

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"limit: expected 1 or more. Received: {limit}")
        self.limit = limit

    @property
    def layout(self) -> Layout:
        """The features that the store keeps."""
        return self._codec.layout

    def user_id(self, user_id: UserId) -> int:
        """Returns the id of a user in the store, known or not."""
        return self._codec.checked_user_id(user_id)

    def read(
        self, user_id: UserId, limit: int | None = None
    ) -> UserHistory | None:
        """Reads the newest events of a user, in one round trip.

        Args:
            user_id: the user.
            limit: maximum number of events; the store's limit by default.

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
        """Appends events of a user, durably and atomically.

        The oldest events beyond the store's limit are dropped.

        Args:
            user_id: the user, who is created if new.
            item_ids: one id, or several, oldest first, without 0.
            behaviors: behavior features by name, with one value per item id;
                those not given are missing.
            user: as in `set_user`, written atomically with the events; None
                does not change the user features.
            times: seconds, one per item id, if the layout has times.
        """
        self.append_many(
            [UserRecord(user_id, user, item_ids, behaviors or {}, times)]
        )

    def append_many(self, users: Iterable[UserRecord]) -> None:
        """Appends events of several users.

        Each record is written atomically.
        """
        self._append_many(list(map(self._checked, users)))

    def set_user(self, user_id: UserId, user: Mapping[str, Value]) -> None:
        """Sets all user features of a user, who is created if new.

        Args:
            user_id: the user.
            user: user features by name; those not given become missing.
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
        """Stores the table rows of a user's history.

        They are valid until the next append.

        Args:
            user_id: a known user.
            rows: int32, oldest first, one for each event that `read` returns.
            table_stamp: identifies the item table.
            end: `UserHistory.end` of the history that was resolved. Give it if
                events may have been appended meanwhile.

        Returns:
            False if the history has changed since `end`; nothing is stored.

        Raises:
            ValueError: the number of rows differs from that of the events.
        """
        values = np.asarray(rows, np.int32)
        return self._set_rows(self.user_id(user_id), values, table_stamp, end)

    def trim(self, user_id: UserId, limit: int) -> None:
        """Drops all but the newest `limit` events of a user."""
        self._trim(self.user_id(user_id), _checked_limit(limit))

    def replace_many(
        self, users: Iterable[UserRecord], mark: Mark | None = None
    ) -> None:
        """Replaces users, with all their features and events.

        Args:
            users: the users; if two records have the same id, the last one is
                used. If `user` is None, the user has no features.
            mark: a note that is stored with them, or not at all.
        """
        self._replace_many(list(map(self._checked, users)), mark)

    def delete_many(self, user_ids: Iterable[UserId]) -> int:
        """Deletes users and all their data, including damaged data.

        Args:
            user_ids: the users; unknown ones are ignored.

        Returns:
            The number of users that were deleted.
        """
        return self._delete_many(sorted(set(map(self.user_id, user_ids))))

    @abc.abstractmethod
    def read_mark(self, name: str) -> str | None:
        """Returns the text of a `Mark`."""

    @abc.abstractmethod
    def user_ids(self) -> Iterator[int]:
        """Yields every known user, in arbitrary order."""

    @abc.abstractmethod
    def stats(self) -> StoreStats:
        """Returns the size of the store."""

    @abc.abstractmethod
    def remove(self) -> None:
        """Removes a store without users."""

    @abc.abstractmethod
    def close(self) -> None:
        """Closes the store. Closing again does nothing."""

    def __enter__(self) -> BehaviorStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Methods that a store implements. Their arguments are checked.

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
        """Returns the history in the records that the store has read."""
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
