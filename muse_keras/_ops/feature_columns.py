"""Features side by side in the last axis of one input."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

from muse_keras._ops.checks import integer

# Indices of a feature; with a second number, how many values it has at once.
Size: TypeAlias = int | tuple[int, int]


class Columns(NamedTuple):
    """The columns of one feature.

    Attributes:
        size: int, indices of the feature.
        values: int, how many values it has at once.
        start: int, its first column.
    """

    size: int
    values: int
    start: int

    @property
    def place(self) -> int | slice:
        """The column of a single value, or the columns of many."""
        if self.values == 1:
            return self.start
        return slice(self.start, self.start + self.values)


def columns_of(sizes: Mapping[str, Size]) -> dict[str, Columns]:
    """Return the columns of each feature, by its name and in their order."""
    columns, start = {}, 0
    for name, size in sizes.items():
        rows, values = size if isinstance(size, tuple) else (size, 1)
        columns[name] = Columns(rows, values, start)
        start += values
    return columns


def feature_sizes(
    name: str, sizes: Mapping[str, Any] | None, taken: Iterable[str]
) -> dict[str, Size]:
    """Return a constructor's sizes of features by their names.

    A name becomes a part of names of layers, some of which are `taken`. A
    size is a number of indices, or a pair of it and the number of values.
    """
    sizes = {} if sizes is None else sizes
    good = r"(?!(" + "|".join(taken) + r")$)[A-Za-z0-9][A-Za-z0-9_]*"
    names = sizes if isinstance(sizes, Mapping) else ("",)
    if not all(re.fullmatch(good, str(one)) for one in names):
        raise ValueError(
            f"`{name}` must map names of features, of letters, digits and _ "
            f"and other than {', '.join(taken)}, to sizes of vocabularies. "
            f"Received: {name}={sizes!r}"
        )
    return {
        feature: _size(f"{name}[{feature!r}]", size)
        for feature, size in sizes.items()
    }


def _size(name: str, size: Any) -> Size:
    if not isinstance(size, tuple | list):
        return integer(name, size)
    if len(size) != 2:
        raise ValueError(
            f"`{name}` must be a number of indices, or a pair of it and the "
            f"number of values. Received: {name}={size!r}"
        )
    rows, values = (integer(name, part) for part in size)
    return rows if values == 1 else (rows, values)
