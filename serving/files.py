"""Atomic files and folders, locks, versions, strict JSON, Parquet."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import pathlib
import platform
import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

PARQUET_MAGIC = b"PAR1"
_ARROW_SCHEMA = b"ARROW:schema"
_VERSION = re.compile(r"[0-9]{1,19}\Z")
_MAX_VERSION = 2**63 - 1


@contextlib.contextmanager
def appearing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a path to write to, which then replaces `path` atomically.

    A reader finds the old or the new content, never a part of it. The parent
    folder is created; containers, whose processes have equal ids, may share it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    place = f"{platform.node()}-{os.getpid()}"
    temporary = path.with_name(f".{path.name}.{place}.tmp")
    try:
        yield temporary
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    temporary.replace(path)


@contextlib.contextmanager
def replaced_folder(
    directory: str | os.PathLike[str],
) -> Iterator[pathlib.Path]:
    """Yields an empty folder that replaces `path` if no error occurs."""
    target = pathlib.Path(directory)
    fresh = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        yield fresh
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


@contextlib.contextmanager
def locked(path: pathlib.Path, wait: bool = True) -> Iterator[bool]:
    """Holds a lock, which the kernel releases when the process ends.

    Yields False if another process holds the lock and `wait` is False.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


def find_versions(base_path: str | os.PathLike[str]) -> dict[int, str]:
    """Returns the version folders of a base path by number.

    Folders whose names are not numbers are ignored, so that a version can be
    written under a temporary name and renamed. If there are both "7" and
    "007", "7" is used.
    """
    found: dict[int, str] = {}
    try:
        with os.scandir(base_path) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return {}
    for entry in listed:
        if not _VERSION.match(entry.name) or not entry.is_dir():
            continue
        version = int(entry.name)
        if version > _MAX_VERSION:
            continue
        if version not in found or entry.name == str(version):
            found[version] = entry.path
    return found


def newest_version(base_path: str | os.PathLike[str]) -> pathlib.Path | None:
    """Returns the version folder with the highest number, or None."""
    found = find_versions(base_path)
    return pathlib.Path(found[max(found)]) if found else None


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file atomically."""
    with appearing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: pathlib.Path, value: Any, **options: Any) -> None:
    """Writes `dumps` of a value atomically."""
    write_text(path, dumps(value, indent=2, **options) + "\n")


def dumps(value: Any, **options: Any) -> str:
    """Returns JSON as `json.dumps` does, with null for NaN and infinities."""
    return json.dumps(_finite(value), allow_nan=False, **options)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def parquet_footer(path: pathlib.Path) -> bytes:
    """Returns a file's footer as a separate file without Arrow's schema.

    The writer's Arrow schema may name types that this pyarrow does not know
    (string_view, list_view, decimal32, 128-bit integers), and changes lists to
    large or fixed-size ones.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 8))
        tail = file.read()
        if len(tail) < 8 or tail[4:] != PARQUET_MAGIC:
            return tail
        file.seek(max(0, size - 8 - int.from_bytes(tail[:4], "little")))
        footer = file.read()
    # A key of the same length that Arrow ignores.
    return PARQUET_MAGIC + footer.replace(_ARROW_SCHEMA, _ARROW_SCHEMA.lower())
