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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from muse_keras.tables.array_blocks import blocks, read_blocks, release_pages
from muse_keras.tables.item_ids import (
    as_int64,
    check_ids,
    is_sorted_unique,
    rows_of,
)
from muse_keras.tables.table_files import (
    CODES_FILE,
    FEATURES_FILE,
    IDS_FILE,
    SCALE,
    check_file,
    map_array,
    map_members,
    read_manifest,
    table_directory,
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
        with table_directory(
            Path(path), ids, order, vectors.shape[1], features, source, schema
        ) as mapped:
            for block in blocks(len(ids)):
                mapped[block] = vectors[order[block]]
                release_pages(mapped)
        return cls.open(path)

    @classmethod
    @contextmanager
    def filled(
        cls,
        path: str | os.PathLike[str],
        item_ids: npt.ArrayLike,
        dim: int,
        features: Mapping[str, npt.ArrayLike],
        source: str,
        schema: Mapping[str, Any] | None = None,
    ) -> Iterator[npt.NDArray[np.int8]]:
        """Write a table whose vectors the caller fills in, in any order.

        The table is there when the `with` block ends without an error;
        otherwise nothing is.

        Args:
            path: as of `write`.
            item_ids: as of `write`, but ascending.
            dim: D.
            features: as of `write`.
            source: as of `write`.
            schema: as of `write`.

        Yields:
            int8 (N, D), the file of the vectors, mapped, zeros. Row i is that
            of `item_ids[i]`. `release_pages` gives its memory back.

        Raises:
            ValueError: as of `write`, or the ids are not ascending.
            FileExistsError: if `path` exists and is not an empty directory.
        """
        ids = as_int64("item_ids", item_ids)
        order = check_ids(ids)
        if not is_sorted_unique(ids):
            raise ValueError(
                "`item_ids` must rise from row to row. Received: other order"
            )
        with table_directory(
            Path(path), ids, order, dim, features, source, schema
        ) as mapped:
            yield mapped

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
