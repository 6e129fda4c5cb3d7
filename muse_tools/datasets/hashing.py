"""Stable 64-bit ids for strings."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from muse_tools.datasets.arrow_lists import Ints


def stable_id(field: str, value: str | None) -> int:
    """Hashes a field's value to a signed 64-bit id, the same everywhere."""
    if not value:
        return 0
    digest = hashlib.blake2b(
        f"{field}\x1f{value}".encode(), digest_size=8
    ).digest()
    return int.from_bytes(digest, "little", signed=True) or 1


def stable_ids(field: str, values: Iterable[str | None]) -> Ints:
    """Hashes many values of one field; each distinct value once."""
    given = list(values)
    known = {value: stable_id(field, value) for value in set(given)}
    return np.array([known[value] for value in given], np.int64)
