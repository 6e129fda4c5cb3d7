"""Events as bytes: 20 each, so that the n-th lies at a known place.

An event is its item id and its category id, little-endian int64, and a
32-bit check over user, item and category. The check finds damaged bytes, a
cut in the wrong place and events of another user.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from serving.stores.errors import StoreCorruptError

__all__ = ["EVENT_BYTES", "checked_events", "pack_events", "unpack_events"]

_EVENT = np.dtype([("item", "<i8"), ("category", "<i8"), ("check", "<u4")])
EVENT_BYTES = _EVENT.itemsize
"""Bytes of one event."""

_USER = 0x9E3779B97F4A7C15
_ITEM = np.uint64(0xD6E8FEB86659FD93)
_CATEGORY = np.uint64(0xA0761D6478BD642F)
_LAST = np.uint64(0xE7037ED1A0B428DB)
_HALF = np.uint64(32)
_MASK = (1 << 64) - 1


def pack_events(
    user_id: int, item_ids: np.ndarray, category_ids: np.ndarray
) -> bytes:
    """Returns the bytes of events.

    Args:
        user_id: whose they are.
        item_ids: int64 (N,).
        category_ids: int64 (N,).
    """
    events = np.empty(len(item_ids), _EVENT)
    events["item"] = item_ids
    events["category"] = category_ids
    events["check"] = _check(user_id, item_ids, category_ids)
    return events.tobytes()


def unpack_events(
    user_id: int, data: bytes | bytearray | memoryview, key: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns item and category ids, int64 (N,) each.

    Args:
        user_id: whose events they have to be.
        data: as `pack_events` makes it.
        key: the record's name, for the error.

    Raises:
        StoreCorruptError: not whole events of this user.
    """
    if len(data) % EVENT_BYTES:
        raise StoreCorruptError(
            user_id,
            key,
            f"{len(data)} bytes are not a multiple of {EVENT_BYTES}",
        )
    events = np.frombuffer(data, _EVENT)
    # Copies: contiguous, and no longer tied to the store's memory.
    items = np.ascontiguousarray(events["item"]).astype(np.int64, copy=False)
    categories = np.ascontiguousarray(events["category"]).astype(
        np.int64, copy=False
    )
    wrong = _check(user_id, items, categories) != events["check"]
    if wrong.any():
        raise StoreCorruptError(
            user_id,
            key,
            f"{int(wrong.sum())} of {len(events)} events fail their check",
        )
    return items, categories


def checked_events(
    item_ids: Sequence[int] | np.ndarray,
    category_ids: Sequence[int] | np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a caller's ids as int64 (N,) each.

    Raises:
        ValueError: not whole numbers, of unequal length, or an item id 0,
            which means padding.
    """
    items = _ids("item_ids", item_ids)
    categories = _ids("category_ids", category_ids)
    if len(items) != len(categories):
        raise ValueError(
            "item_ids and category_ids: expected the same length. Received: "
            f"{len(items)} and {len(categories)}"
        )
    if not items.all():
        raise ValueError(
            "item_ids: expected ids other than 0, which means padding. "
            f"Received: 0 at position {int(np.argmin(items != 0))}"
        )
    return items, categories


def _ids(name: str, values: Sequence[int] | np.ndarray) -> np.ndarray:
    given = np.asarray(values)
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        raise ValueError(
            f"{name}: expected a flat list of whole numbers. "
            f"Received: {given.dtype} of shape {given.shape}"
        )
    if given.dtype == np.uint64 and (given > np.uint64(2**63 - 1)).any():
        raise ValueError(f"{name}: expected ids that fit in int64")
    return given.astype(np.int64)


def _check(
    user_id: int, item_ids: np.ndarray, category_ids: np.ndarray
) -> np.ndarray:
    """Returns uint32 (N,); the order of the products is the format's."""
    mixed = item_ids.astype(np.int64, copy=False).view(np.uint64) * _ITEM
    mixed ^= mixed >> _HALF
    mixed += (
        category_ids.astype(np.int64, copy=False).view(np.uint64) * _CATEGORY
    )
    mixed ^= mixed >> _HALF
    mixed += np.uint64(((user_id + 1) * _USER) & _MASK)
    mixed *= _LAST
    return (mixed >> _HALF).astype(np.uint32)
