"""The item table artifact: item ids, int8 vectors and item features.

A directory of four files, written once and memory-mapped by its readers:

- `item_ids.npy` int64 (N,): sorted, unique, never 0.
- `scl_int8.npy` int8 (N + 1, D): row 0 is zero and means "unknown item", row
  i + 1 belongs to `item_ids[i]`. A vector is `codes / 127`.
- `item_features.npz`: an int64 or float32 (N + 1,) or (N + 1, W) for each
  feature, raw values, rows as above. Missing is 0, or NaN of floats.
- `manifest.json`: sizes, scale, source, what declared the data if anything
  did, SHA-256 of each file.
"""

import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from muse_keras.tables.array_blocks import read_blocks
from muse_keras.tables.item_ids import (
    as_int64,
    check_count,
    check_ids,
    is_sorted_unique,
    rows_of,
)
from muse_keras.tables.table_files import (
    CODES_FILE,
    FEATURES_FILE,
    IDS_FILE,
    SCALE,
    Rows,
    check_features,
    check_file,
    map_array,
    map_members,
    read_manifest,
    write_table,
)


class ItemTable:
    """Item ids, their int8 vectors and their features, opened read-only.

    Use `ItemTable.write` to make one and `ItemTable.open` to read one. Arrays
    are memory-mapped: opening 35 million items costs milliseconds, and
    several processes share the pages.

    Attributes:
        path: `pathlib.Path`. The directory.
        manifest: dict. The content of `manifest.json`.
        item_ids: int64 (N,). Sorted, unique, without 0.
        codes: int8 (N + 1, D). Row 0 is zero; a vector is `codes * scale`.
        features: dict of names, in the order in which they were written, to
            raw values, int64 or float32 (N + 1,) or (N + 1, W). Row 0, and an
            item without features, is missing: 0, or NaN of floats.
        num_items: int, N.
        dim: int, D.
        scale: float, 1 / 127.

    Example:
    >>> import tempfile
    >>> import numpy as np
    >>> folder = tempfile.mkdtemp()
    >>> table = ItemTable.write(
    ...     folder,
    ...     item_ids=np.array([7, -3]),
    ...     codes=np.array([[127, 0], [0, 127]], "int8"),
    ...     features={"category": np.array([70, 30])},
    ...     source="example",
    ... )
    >>> table.rows([7, -3, 0, 8])
    array([2, 1, 0, 0], dtype=int32)
    >>> int(table.features["category"][table.rows(7)])
    70
    """

    def __init__(
        self,
        path: Path,
        manifest: dict[str, Any],
        item_ids: npt.NDArray[np.int64],
        codes: npt.NDArray[np.int8],
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.item_ids = item_ids
        self.codes = codes

    @property
    def num_items(self) -> int:
        """Number of known items, N."""
        return int(self.item_ids.shape[0])

    @property
    def dim(self) -> int:
        """Width of a vector, D."""
        return int(self.codes.shape[1])

    @property
    def scale(self) -> float:
        """Factor from a code to a vector component."""
        return SCALE

    @cached_property
    def features(self) -> dict[str, npt.NDArray[Any]]:
        """Raw values of features by name, memory-mapped."""
        return map_members(self.path / FEATURES_FILE)

    def rows(self, ids: npt.ArrayLike) -> npt.NDArray[np.int32]:
        """Return the table row of every id.

        Args:
            ids: integers of any shape, any int64 value.

        Returns:
            int32 of the same shape; 0 for id 0 and for unknown ids.

        Raises:
            ValueError: if `ids` are not integers that fit in int64.
        """
        return rows_of(self.item_ids, ids)

    def inverse_norms(self) -> npt.NDArray[np.float32]:
        """Return 1 / Euclidean norm of each row of `codes`.

        Returns:
            float32 (N + 1,), in units of one over codes (multiply by 127 for
            vectors); 0 for a zero row.
        """
        inverse = np.zeros(self.codes.shape[0], np.float32)
        for block, codes in read_blocks(self.codes):
            inverse[block] = inverse_norms_of(codes)
        return inverse

    @classmethod
    def write(
        cls,
        path: str | os.PathLike[str],
        item_ids: npt.ArrayLike,
        codes: npt.ArrayLike,
        features: Mapping[str, npt.ArrayLike],
        source: str,
        schema: Mapping[str, Any] | None = None,
    ) -> "ItemTable":
        """Sort, check and write a table, then open it.

        Large arrays may be memory-mapped: they are read and written in
        blocks, and no copy of the vectors is made in memory. The files are
        written to a temporary directory beside `path`, which is renamed at
        the end: a reader sees a whole table or none.

        Args:
            path: directory to make. It may exist if it is empty.
            item_ids: integers (N,), any order, unique, without 0.
            codes: int8 (N, D), aligned with `item_ids`; a zero row is an item
                without a vector.
            features: mapping of names to integers or floats, (N,) or (N, W),
                aligned with `item_ids`; 0, or NaN of floats, where unknown.
            source: where the vectors come from, kept in the manifest.
            schema: what declared the data, JSON values kept in the manifest.

        Returns:
            The opened `ItemTable`.

        Raises:
            ValueError: if an argument has a wrong shape or type, or ids are
                0, repeated or absent. The message names the argument.
            FileExistsError: if `path` exists and is not an empty directory.
        """
        ids = as_int64("item_ids", item_ids)
        vectors = np.asarray(codes)
        order = check_ids(ids)
        _check_codes(vectors, len(ids))
        columns = check_features(features, len(ids))
        write_table(
            Path(path),
            len(ids),
            Rows.ordered(ids, order),
            Rows.ordered(vectors, order),
            {name: Rows.ordered(of, order) for name, of in columns.items()},
            source,
            schema,
        )
        return cls.open(path)

    @classmethod
    def join(
        cls,
        path: str | os.PathLike[str],
        parts: Iterable[str | os.PathLike[str]],
        source: str,
        schema: Mapping[str, Any] | None = None,
    ) -> "ItemTable":
        """Write the items of several tables as one table, then open it.

        The files are those that `write` makes of all items. Rows are copied
        block by block, so that memory does not grow with the tables.

        Args:
            path: as of `write`.
            parts: tables with equal features. The ids of a table are above
                those of the one before.
            source: as of `write`.
            schema: as of `write`.

        Returns:
            The opened `ItemTable`.

        Raises:
            ValueError: if a part is damaged, ids do not rise from part to
                part, or parts differ in features.
            FileExistsError: if `path` exists and is not an empty directory.
        """
        tables = [cls.open(part, verify=True) for part in parts]
        if not tables:
            raise ValueError("`parts` must have at least one table.")
        for before, after in pairwise(tables):
            if after.item_ids[0] <= before.item_ids[-1]:
                raise ValueError(
                    f"{after.path}: ids must be above {before.item_ids[-1]}, "
                    f"the last of {before.path}. "
                    f"Received: {after.item_ids[0]}"
                )
            if _layout(after) != _layout(before):
                raise ValueError(
                    f"{after.path}: expected the columns of {before.path}, "
                    f"{_layout(before)}. Received: {_layout(after)}"
                )
        num_items = check_count(sum(table.num_items for table in tables))
        write_table(
            Path(path),
            num_items,
            Rows.joined([table.item_ids for table in tables]),
            Rows.joined([table.codes[1:] for table in tables]),
            {
                name: Rows.joined(
                    [table.features[name][1:] for table in tables]
                )
                for name in tables[0].features
            },
            source,
            schema,
        )
        return cls.open(path)

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], verify: bool = False
    ) -> "ItemTable":
        """Memory-map a table.

        Args:
            path: directory written by `ItemTable.write`.
            verify: if True, also read every file, compare it with its SHA-256
                and check that the ids are sorted, unique and not 0.

        Returns:
            The `ItemTable`.

        Raises:
            FileNotFoundError: if a file is absent.
            ValueError: if a file is damaged or is not what the manifest says.
                The message names the file.
        """
        folder = Path(path)
        manifest = read_manifest(folder)
        for name in (IDS_FILE, CODES_FILE, FEATURES_FILE):
            check_file(folder, name, manifest, verify)
        num_items, dim = manifest["num_items"], manifest["dim"]
        item_ids = map_array(folder / IDS_FILE, ("int64",), (num_items,))
        codes = map_array(folder / CODES_FILE, ("int8",), (num_items + 1, dim))
        if verify:
            if not is_sorted_unique(item_ids):
                raise ValueError(
                    f"{folder / IDS_FILE}: ids must be sorted, unique and not "
                    "0. Write the table again with `ItemTable.write`."
                )
            if codes[0].any():
                raise ValueError(
                    f"{folder / CODES_FILE}: row 0 (unknown item) must be 0."
                )
        return cls(folder, manifest, item_ids, codes)

    def __repr__(self) -> str:
        """Return sizes and place, for people."""
        return (
            f"ItemTable(num_items={self.num_items}, dim={self.dim}, "
            f"path={str(self.path)!r})"
        )


def inverse_norms_of(codes: npt.NDArray[np.int8]) -> npt.NDArray[np.float32]:
    """Return 1 / Euclidean norm of rows of int8 codes (n, D), 0 for zeros."""
    wide = codes.astype(np.int32)
    squares = np.einsum("nd,nd->n", wide, wide).astype(np.float64)
    inverse = np.zeros(len(codes), np.float64)
    np.divide(1.0, np.sqrt(squares), out=inverse, where=squares > 0)
    return inverse.astype(np.float32)


def _layout(table: ItemTable) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return dtype and shape of a row of every column."""
    columns = {"codes": table.codes, **table.features}
    return {name: (str(of.dtype), of.shape[1:]) for name, of in columns.items()}


def _check_codes(codes: npt.NDArray[Any], num_items: int) -> None:
    if codes.dtype != np.int8:
        raise ValueError(
            "`codes` must be int8 (trunc(127 * vector)). "
            f"Received: dtype={codes.dtype}"
        )
    if codes.ndim != 2 or len(codes) != num_items or codes.shape[1] == 0:
        raise ValueError(
            f"`codes` must have shape ({num_items}, dim), one row per item "
            f"id. Received: shape={codes.shape}"
        )
