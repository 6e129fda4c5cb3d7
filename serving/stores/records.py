"""The two other records of a user: the header and the resolved rows."""

from __future__ import annotations

import dataclasses
import struct
import zlib

import numpy as np

from serving.stores.errors import StoreCorruptError

__all__ = [
    "HEADER_BYTES",
    "PROFILE_FIELDS",
    "PROFILE_OFFSET",
    "ROWS_HEADER_BYTES",
    "Header",
    "Rows",
    "check_user_id",
    "profile_of",
]

PROFILE_FIELDS = 5
"""Anonymised fields of a user's profile."""

_MAGIC = b"MUSEHIS1"
_HEADER = struct.Struct("<8sqqq5qQ")
HEADER_BYTES = _HEADER.size
"""Bytes of a `Header`."""
PROFILE_OFFSET = 24
"""Where the part begins that a new profile replaces, to the header's end."""

_ROWS_MAGIC = b"MUSEROW1"
_ROWS = struct.Struct("<8sqqqqQ")
ROWS_HEADER_BYTES = _ROWS.size
"""Bytes before the rows."""


@dataclasses.dataclass(frozen=True)
class Header:
    """What is known about a user beside the events.

    `start` lies outside the check, so that a store can count on without
    computing one.

    Attributes:
        user_id: the user.
        start: how many events were dropped; the number of the first kept.
        profile: ids, or None if none was ever set.
    """

    user_id: int
    start: int = 0
    profile: tuple[int, ...] | None = None

    def pack(self) -> bytes:
        """Returns the header's `HEADER_BYTES` bytes."""
        known = int(self.profile is not None)
        profile = self.profile or (0,) * PROFILE_FIELDS
        check = _header_check(self.user_id, known, profile)
        return _HEADER.pack(
            _MAGIC, self.user_id, self.start, known, *profile, check
        )

    @classmethod
    def unpack(cls, user_id: int, data: bytes | memoryview, key: str) -> Header:
        """Reads a header.

        Raises:
            StoreCorruptError: not the header of this user.
        """
        if len(data) != HEADER_BYTES or bytes(data[:8]) != _MAGIC:
            raise StoreCorruptError(
                user_id,
                key,
                f"does not begin with {_MAGIC.decode()}, but with "
                f"{bytes(data[:8])!r}",
            )
        _, owner, start, known, *rest = _HEADER.unpack(data)
        *profile, check = rest
        if owner != user_id:
            raise StoreCorruptError(user_id, key, f"belongs to user {owner}")
        if start < 0 or check != _header_check(owner, known, tuple(profile)):
            raise StoreCorruptError(user_id, key, "the header fails its check")
        return cls(user_id, start, tuple(profile) if known else None)

    def profile_array(self) -> np.ndarray:
        """Returns int64 (5,), zeros if unknown."""
        return np.array(self.profile or (0,) * PROFILE_FIELDS, np.int64)


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """The rows of a model's item table that a history resolves to.

    Attributes:
        user_id: the user.
        start: number of the first event covered.
        end: number after the last one.
        table_stamp: which item table the rows belong to.
        rows: int32 (end - start,), oldest first.
    """

    user_id: int
    start: int
    end: int
    table_stamp: int
    rows: np.ndarray

    def pack(self) -> bytes:
        """Returns the record's bytes."""
        body = np.ascontiguousarray(self.rows, "<i4").tobytes()
        plain = (self.user_id, self.start, self.end, self.table_stamp)
        check = zlib.crc32(body, zlib.crc32(struct.pack("<4q", *plain)))
        return _ROWS.pack(_ROWS_MAGIC, *plain, check) + body

    @classmethod
    def unpack(cls, user_id: int, data: bytes | memoryview, key: str) -> Rows:
        """Reads a record of rows.

        Raises:
            StoreCorruptError: not whole rows of this user.
        """
        if len(data) < ROWS_HEADER_BYTES or bytes(data[:8]) != _ROWS_MAGIC:
            raise StoreCorruptError(
                user_id, key, f"does not begin with {_ROWS_MAGIC.decode()}"
            )
        _, *plain, check = _ROWS.unpack(data[:ROWS_HEADER_BYTES])
        body = bytes(data[ROWS_HEADER_BYTES:])
        owner, start, end, stamp = plain
        if (
            owner != user_id
            or len(body) != 4 * (end - start)
            or check != zlib.crc32(body, zlib.crc32(struct.pack("<4q", *plain)))
        ):
            raise StoreCorruptError(user_id, key, "the rows fail their check")
        rows = np.frombuffer(body, "<i4").astype(np.int32, copy=False)
        return cls(user_id, start, end, stamp, rows)

    def newest(self, end: int, count: int) -> np.ndarray | None:
        """Returns the rows of the last `count` events, oldest first.

        Args:
            end: number after the newest event of the history now.
            count: events wanted.

        Returns:
            int32 (count,), or None where the rows do not cover them.
        """
        if end != self.end or count > len(self.rows):
            return None
        return self.rows[len(self.rows) - count :]


def profile_of(values: object) -> tuple[int, ...]:
    """Returns a caller's profile.

    Raises:
        ValueError: not five whole numbers.
    """
    given = np.asarray(values)
    if given.shape != (PROFILE_FIELDS,) or given.dtype.kind not in "iu":
        raise ValueError(
            f"profile: expected {PROFILE_FIELDS} whole numbers. "
            f"Received: {values!r}"
        )
    return tuple(int(value) for value in given.astype(np.int64))


def check_user_id(user_id: int) -> int:
    """Returns a caller's user id as a plain number.

    Raises:
        ValueError: not a whole number of 64 bits.
    """
    if (
        isinstance(user_id, bool)
        or not isinstance(user_id, (int, np.integer))
        or not -(2**63) <= int(user_id) < 2**63
    ):
        raise ValueError(
            f"user_id: expected a whole number of 64 bits. Received: "
            f"{user_id!r}"
        )
    return int(user_id)


def _header_check(user_id: int, known: int, profile: tuple[int, ...]) -> int:
    return zlib.crc32(_MAGIC + struct.pack("<7q", user_id, known, *profile))
