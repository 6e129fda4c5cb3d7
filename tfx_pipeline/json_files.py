"""JSON that every reader takes: a value that is no number becomes null."""

from __future__ import annotations

import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

__all__ = ["dumps", "write"]


def dumps(value: Any, **options: Any) -> str:
    """Returns `json.dumps`, with null for NaN and infinities."""
    return json.dumps(_finite(value), allow_nan=False, **options)


def write(path: pathlib.Path, value: Any) -> None:
    """Writes a file all at once, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(dumps(value, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
