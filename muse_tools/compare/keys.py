"""Digests of everything that determines the result of a cell."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Iterable
from typing import Any

from tfx_pipeline.runs import code_keys

_CHUNK = 1 << 20


def digest(value: Any) -> str:
    """Returns the digest of a JSON value, 16 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def files_digest(paths: Iterable[pathlib.Path]) -> str:
    """Returns a digest of the contents of files, in their order."""
    found = hashlib.sha256()
    for path in paths:
        part = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                part.update(chunk)
        found.update(part.digest())
    return found.hexdigest()[:16]


def code_digest() -> str:
    """Returns a digest of the code that trains and scores, and its packages.

    It ignores comments and docstrings, and is computed once per process.
    """
    return code_keys.key(("muse_tools.compare.cell",))
