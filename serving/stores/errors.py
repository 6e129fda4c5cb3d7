"""Errors of behavior stores."""

from __future__ import annotations


class StoreError(RuntimeError):
    """A store failed; the base class of the other errors."""


class StoreUnavailableError(StoreError):
    """The store did not answer in time; a retry may succeed."""


class StoreMovedError(StoreUnavailableError):
    """The store was removed or replaced; open it again."""


class StoreCorruptError(StoreError):
    """A record in the store is damaged. Its content is not used.

    Args:
        user_id: user of the record.
        key: key of the record in the store.
        reason: the defect.

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
