"""Checks of item ids, and their rows in a table, in NumPy."""

import numpy as np
import numpy.typing as npt

from muse_keras.tables.array_blocks import blocks


def as_int64(name: str, values: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return `values` as int64, refusing what int64 cannot hold."""
    array = np.asarray(values)
    if array.size == 0 and array.dtype == np.float64:
        array = array.astype(np.int64)  # `np.asarray([])` is float64.
    if array.dtype.kind not in "iu":
        raise ValueError(
            f"`{name}` must be integers of at most 64 bits. "
            f"Received: dtype={array.dtype}"
        )
    if array.dtype == np.uint64 and (array > np.iinfo(np.int64).max).any():
        raise ValueError(
            f"`{name}` must fit in int64. Received: max={array.max()}"
        )
    return array.astype(np.int64, copy=False)


def is_sorted_unique(item_ids: npt.NDArray[np.int64]) -> bool:
    """Tell whether ids rise strictly and do not contain 0."""
    for block in blocks(len(item_ids)):
        some = item_ids[max(block.start - 1, 0) : block.stop]
        if (some[1:] <= some[:-1]).any() or (some == 0).any():
            return False
    return True


def check_ids(
    ids: npt.NDArray[np.int64], name: str = "item_ids"
) -> npt.NDArray[np.intp]:
    """Check ids and return the order that sorts them."""
    if ids.ndim != 1 or len(ids) == 0:
        raise ValueError(
            f"`{name}` must be one-dimensional and not empty. "
            f"Received: shape={ids.shape}"
        )
    check_count(len(ids), name)
    order = np.argsort(ids, kind="stable")
    for block in blocks(len(ids)):
        some = ids[order[block.start : block.stop + 1]]
        if (some == 0).any():
            raise ValueError(
                f"`{name}` must not contain 0, which means padding or "
                "missing. Received: 0 at position "
                f"{int(np.flatnonzero(ids == 0)[0])}"
            )
        if (some[1:] == some[:-1]).any():
            repeated = some[1:][some[1:] == some[:-1]][0]
            raise ValueError(
                f"`{name}` must be unique; keep one row per id. "
                f"Received: {repeated} more than once"
            )
    return order


def check_count(count: int, name: str = "item_ids") -> int:
    """Return a number of ids, refusing what int32 rows cannot name."""
    if count >= np.iinfo(np.int32).max:
        raise ValueError(
            f"`{name}` must number fewer than 2**31 - 1, since rows are "
            f"int32. Received: {count}"
        )
    return count


def rows_of(
    item_ids: npt.NDArray[np.int64], ids: npt.ArrayLike
) -> npt.NDArray[np.int32]:
    """Return int32 `1 + index` of every id in sorted `item_ids`, or 0.

    0 is for id 0 and for ids that are not there. Raises `ValueError` if `ids`
    are not integers that fit in int64.
    """
    wanted = as_int64("ids", ids)
    index = np.searchsorted(item_ids, wanted)
    inside = np.minimum(index, max(len(item_ids) - 1, 0))
    if len(item_ids) == 0:
        return np.zeros(wanted.shape, np.int32)
    found = (item_ids[inside] == wanted) & (wanted != 0)
    return np.where(found, inside + 1, 0).astype(np.int32)
