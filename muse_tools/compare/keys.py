"""What determines a cell, as one digest."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import json
import pathlib
from collections.abc import Iterable
from typing import Any

__all__ = ["code_digest", "digest", "files_digest", "source_digest"]

_PROJECT = pathlib.Path(__file__).resolve().parents[2]
# Code that a training and its scores depend on.
_CODE = (
    "muse_keras/_ops",
    "muse_keras/layers",
    "muse_keras/losses/impression_crossentropy.py",
    "muse_keras/models",
    "muse_keras/optimizers",
    "muse_keras/tables",
    "muse_keras/tensorflow",
    "muse_tools/compare/cell.py",
    "tfx_pipeline/features.py",
    "tfx_pipeline/training/input_fn.py",
    "tfx_pipeline/training/records.py",
    "tfx_pipeline/training/trainer.py",
)
_PACKAGES = ("keras", "numpy", "tensorflow")
_CHUNK = 1 << 20


def digest(value: Any) -> str:
    """Returns 16 hexadecimal digits of a JSON value."""
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


def source_digest(text: str) -> str:
    """Returns a digest of Python source without comments and docstrings."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list) or not body:
            continue
        first = body[0]
        if (
            isinstance(first, ast.Expr)
            and isinstance(first.value, ast.Constant)
            and isinstance(first.value.value, str)
        ):
            del body[0]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


@functools.cache
def code_digest() -> str:
    """Returns a digest of the code that trains and scores, and its packages.

    Comments and docstrings do not count. Read once per process.
    """
    found: dict[str, str] = {}
    for place in _CODE:
        path = _PROJECT / place
        files = [path] if path.is_file() else sorted(path.rglob("*.py"))
        for file in files:
            name = str(file.relative_to(_PROJECT))
            found[name] = source_digest(file.read_text(encoding="utf-8"))
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return digest([found, versions])
