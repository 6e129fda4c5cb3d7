"""The 64-bit ids of texts, used by the pipeline, clients and stores.

An id is the 8-byte BLAKE2b digest of the name of the field, the byte 0x1F and
the text (all UTF-8), read as a signed little-endian integer. A digest of 0
becomes 1, because 0 stands for missing and for the empty text. Keys use the
fields ``user_id`` and ``item_id``, features ``user_<f>``, ``item_<f>`` etc.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt


def stable_id(field: str, value: str | None) -> int:
    """Returns the signed 64-bit id of a text; 0 for None and the empty text."""
    if not value:
        return 0
    digest = hashlib.blake2b(
        f"{field}\x1f{value}".encode(), digest_size=8
    ).digest()
    return int.from_bytes(digest, "little", signed=True) or 1


def stable_ids(
    field: str, values: Iterable[str | None]
) -> npt.NDArray[np.int64]:
    """Returns the ids of N texts as int64 (N,); hashes each text once."""
    given = list(values)
    known = {value: stable_id(field, value) for value in set(given)}
    return np.array([known[value] for value in given], np.int64)
