"""The 64-bit ids of texts: in the pipeline, in clients and in stores.

An id is the first 8 bytes, little-endian and signed, of BLAKE2b with a digest
of 8 bytes over the name of the field, the byte 0x1F and the text, in UTF-8; 1
where these are 0, and 0 (missing) for no text. Keys are hashed as fields
``user_id`` and ``item_id``, features ``f`` as ``user_<f>`` and ``item_<f>``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt


def stable_id(field: str, value: str | None) -> int:
    """Hashes a field's value to a signed 64-bit id, the same everywhere."""
    if not value:
        return 0
    digest = hashlib.blake2b(
        f"{field}\x1f{value}".encode(), digest_size=8
    ).digest()
    return int.from_bytes(digest, "little", signed=True) or 1


def stable_ids(
    field: str, values: Iterable[str | None]
) -> npt.NDArray[np.int64]:
    """Hashes many values of one field; each distinct value once."""
    given = list(values)
    known = {value: stable_id(field, value) for value in set(given)}
    return np.array([known[value] for value in given], np.int64)
