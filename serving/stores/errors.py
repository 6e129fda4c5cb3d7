"""What can go wrong with a behavior store."""

from __future__ import annotations


class StoreError(RuntimeError):
    """A store could not do what was asked; the base of the others."""


class StoreUnavailableError(StoreError):
    """The store does not answer, or not in time; trying again may help."""


class StoreMovedError(StoreUnavailableError):
    """Its file was removed or replaced; open the store again."""


class StoreCorruptError(StoreError):
    """What lies in the store is not what was written; never guessed at.

    Args:
        user_id: user of the record.
        key: the record's name in the store.
        reason: what is wrong with it.

    Attributes:
        user_id: as given.
        key: as given.
        reason: as given.
    """

    def __init__(self, user_id: int, key: str, reason: str) -> None:
        super().__init__(user_id, key, reason)
        self.user_id = user_id
        self.key = key
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"the history of user {self.user_id} cannot be trusted: key "
            f"{self.key}: {self.reason}. Load this user again"
        )
