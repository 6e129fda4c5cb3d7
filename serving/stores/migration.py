"""Copies the users of a store into another one."""

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
    """Copies features and events of every user that the target does not have.

    Started again after a failure, it goes on where it stopped: users are
    written whole or not at all, and those of the target stay as they are.
    Append to the target only after that, or a user would keep the new events
    alone. Rows are not copied.

    Args:
        source: where from; nothing may be appended to it meanwhile.
        target: where to; of each user its newest `limit` events are kept.
        on_progress: called with the number of users copied, after each write.

    Returns:
        How many users were copied.

    Raises:
        ValueError: the target's layout lacks a feature.
        StoreError: a store failed; or, after all others were copied, some
            users are damaged.
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
