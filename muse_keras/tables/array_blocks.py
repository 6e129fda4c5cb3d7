"""Arrays of any size, block by block, in memory or in a mapped file."""

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

CHUNK_ROWS = 1 << 16


def blocks(size: int, rows: int = CHUNK_ROWS) -> Iterator[slice]:
    """Yield consecutive slices of at most `rows` that cover `size`."""
    for start in range(0, size, rows):
        yield slice(start, min(start + rows, size))


def read_blocks(
    values: npt.NDArray[Any],
) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
    """Yield slices that cover an array, and a copy of its rows there.

    Pages of a mapped array are given back after each block: reading a file of
    any size costs one block of memory.
    """
    for block in blocks(len(values)):
        yield block, np.array(values[block])
        release_pages(values)


def release_pages(values: npt.NDArray[Any]) -> None:
    """Give back the memory of an array's file, if it is mapped.

    The array stays usable: what is read again comes from the file's cache,
    which also holds what was written.
    """
    # A private copy ("c") must stay: its changes are in no file.
    shared = isinstance(values, np.memmap) and values.mode != "c"
    mapped = getattr(values, "_mmap", None) if shared else None
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
