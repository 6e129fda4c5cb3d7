"""Locks between processes that the kernel releases when one dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator

__all__ = ["locked", "try_lock"]


@contextlib.contextmanager
def try_lock(path: pathlib.Path) -> Iterator[bool]:
    """Takes a lock if nobody has it.

    Args:
        path: lock file; it stays there, with the holder's process id.

    Yields:
        Whether the lock was taken.
    """
    with _opened(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        _sign(file)
        yield True


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
    """Waits for a lock and holds it.

    Args:
        path: as in `try_lock`.
    """
    with _opened(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        _sign(file)
        yield


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        yield file
    finally:
        # Closing releases the lock.
        os.close(file)


def _sign(file: int) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, str(os.getpid()).encode(), 0)
