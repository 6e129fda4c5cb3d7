"""Copies the users of a store to another store."""

from __future__ import annotations

from collections.abc import Callable

from serving.stores.base import BehaviorStore, UserHistory, UserRecord
from serving.stores.errors import StoreCorruptError, StoreError

_COMMIT_USERS = 2048
_COMMIT_EVENTS = 2_000_000


def copy_users(
    source: BehaviorStore,
    target: BehaviorStore,
    on_progress: Callable[[int], None] | None = None,
) -> int:
    """Copies features and events of all users that the target does not have.

    After a failure, it can be started again and resumes: users are written
    atomically, and users of the target are not changed. Append to the target
    only after the copy, because a user with new events would not be copied.
    Rows are not copied.

    Args:
        source: the store to copy; nothing may be appended to it meanwhile.
        target: the store to write to, which keeps the newest `limit` events.
        on_progress: called with the number of users copied, after each write.

    Returns:
        The number of users copied.

    Raises:
        ValueError: the target's layout lacks a feature.
        StoreError: a store failed, or some users are damaged; then all others
            were copied.
    """
    copied = damaged = 0
    first: StoreCorruptError | None = None
    group: list[UserHistory] = []

    def write() -> None:
        nonlocal copied
        target.replace_many(
            UserRecord(u.user_id, u.user, u.item_ids, u.behaviors, u.times)
            for u in group
        )
        copied += len(group)
        group.clear()
        if on_progress is not None:
            on_progress(copied)

    for user_id in source.user_ids():
        if target.read(user_id, 0) is not None:
            continue
        try:
            found = source.read(user_id)
        except StoreCorruptError as error:
            damaged += 1
            first = first or error
            continue
        if found is None:
            continue
        group.append(found)
        if (
            len(group) == _COMMIT_USERS
            or sum(map(len, group)) >= _COMMIT_EVENTS
        ):
            write()
    write()
    if first is not None:
        raise StoreError(
            f"{copied} users were copied and {damaged} could not be; the "
            f"first: {first}"
        )
    return copied
