"""The item table artifact: item ids, int8 vectors and item features.

A directory of four files, written once and memory-mapped by its readers:

- `item_ids.npy` int64 (N,): sorted, unique, never 0.
- `scl_int8.npy` int8 (N + 1, D): row 0 is zero and means "unknown item", row
  i + 1 belongs to `item_ids[i]`. A vector is `codes / 127`.
- `item_features.npz`: `category`, `city`, `province` int64 (N + 1,), raw ids,
  rows as above.
- `manifest.json`: sizes, scale, source, SHA-256 of each file.
"""

import hashlib
import json
import mmap
import os
import struct
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

FORMAT_VERSION = 1
FEATURE_NAMES = ("category", "city", "province")
SCALE = 1.0 / 127.0

_IDS_FILE = "item_ids.npy"
_CODES_FILE = "scl_int8.npy"
_FEATURES_FILE = "item_features.npz"
_MANIFEST_FILE = "manifest.json"
_CHUNK_ROWS = 1 << 16


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
        features: dict of `category`, `city`, `province`, each int64 (N + 1,)
            of raw ids. Row 0, and an item without features, is 0.
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
    ...     features={
    ...         "category": np.array([70, 30]),
    ...         "city": np.array([1, 2]),
    ...         "province": np.array([3, 4]),
    ...     },
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
    def features(self) -> dict[str, npt.NDArray[np.int64]]:
        """Raw feature ids by name, each int64 (N + 1,), memory-mapped."""
        file = self.path / _FEATURES_FILE
        return {name: _map_member(file, name) for name in FEATURE_NAMES}

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
            features: `category`, `city` and `province`, integers (N,) aligned
                with `item_ids`; 0 where unknown.
            source: where the vectors come from, kept in the manifest.

        Returns:
            The opened `ItemTable`.

        Raises:
            ValueError: if an argument has a wrong shape or type, or ids are
                0, repeated or absent. The message names the argument.
            FileExistsError: if `path` exists and is not an empty directory.
        """
        ids = _as_int64("item_ids", item_ids)
        vectors = np.asarray(codes)
        order = check_ids(ids)
        _check_codes(vectors, len(ids))
        with _making(
            Path(path), ids, order, vectors.shape[1], features, source
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
    ) -> Iterator[npt.NDArray[np.int8]]:
        """Write a table whose vectors the caller fills in, in any order.

        The table is there when the `with` block ends without an error;
        otherwise nothing is.

        Args:
            path: as of `write`.
            item_ids: as of `write`, but rising.
            dim: D.
            features: as of `write`.
            source: as of `write`.

        Yields:
            int8 (N, D), the file of the vectors, mapped, zeros. Row i is that
            of `item_ids[i]`. `release_pages` gives its memory back.

        Raises:
            ValueError: as of `write`, or the ids do not rise.
            FileExistsError: if `path` exists and is not an empty directory.
        """
        ids = _as_int64("item_ids", item_ids)
        order = check_ids(ids)
        if not is_sorted_unique(ids):
            raise ValueError(
                "`item_ids` must rise from row to row. Received: other order"
            )
        with _making(Path(path), ids, order, dim, features, source) as mapped:
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
        manifest = _read_manifest(folder)
        for name in (_IDS_FILE, _CODES_FILE, _FEATURES_FILE):
            check_file(folder, name, manifest, verify)
        num_items, dim = manifest["num_items"], manifest["dim"]
        item_ids = _map(folder / _IDS_FILE, "int64", (num_items,))
        codes = _map(folder / _CODES_FILE, "int8", (num_items + 1, dim))
        if verify:
            if not is_sorted_unique(item_ids):
                raise ValueError(
                    f"{folder / _IDS_FILE}: ids must be sorted, unique and not "
                    "0. Write the table again with `ItemTable.write`."
                )
            if codes[0].any():
                raise ValueError(
                    f"{folder / _CODES_FILE}: row 0 (unknown item) must be 0."
                )
        return cls(folder, manifest, item_ids, codes)

    def __repr__(self) -> str:
        """Return sizes and place, for people."""
        return (
            f"ItemTable(num_items={self.num_items}, dim={self.dim}, "
            f"path={str(self.path)!r})"
        )


def rows_of(
    item_ids: npt.NDArray[np.int64], ids: npt.ArrayLike
) -> npt.NDArray[np.int32]:
    """Return `1 + index` of every id in sorted `item_ids`, or 0.

    Args:
        item_ids: int64 (N,), sorted, unique.
        ids: integers of any shape.

    Returns:
        int32 of the shape of `ids`; 0 for id 0 and ids that are not there.

    Raises:
        ValueError: if `ids` are not integers that fit in int64.
    """
    wanted = _as_int64("ids", ids)
    index = np.searchsorted(item_ids, wanted)
    inside = np.minimum(index, max(len(item_ids) - 1, 0))
    if len(item_ids) == 0:
        return np.zeros(wanted.shape, np.int32)
    found = (item_ids[inside] == wanted) & (wanted != 0)
    return np.where(found, inside + 1, 0).astype(np.int32)


def inverse_norms_of(codes: npt.NDArray[np.int8]) -> npt.NDArray[np.float32]:
    """Return 1 / Euclidean norm of rows of int8 codes (n, D), 0 for zeros."""
    wide = codes.astype(np.int32)
    squares = np.einsum("nd,nd->n", wide, wide).astype(np.float64)
    inverse = np.zeros(len(codes), np.float64)
    np.divide(1.0, np.sqrt(squares), out=inverse, where=squares > 0)
    return inverse.astype(np.float32)


def blocks(size: int, rows: int = _CHUNK_ROWS) -> Iterator[slice]:
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
    # Not of a private copy ("c"): its changes are nowhere else.
    shared = isinstance(values, np.memmap) and values.mode != "c"
    mapped = getattr(values, "_mmap", None) if shared else None
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def _as_int64(name: str, values: npt.ArrayLike) -> npt.NDArray[np.int64]:
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


def check_ids(ids: npt.NDArray[np.int64]) -> npt.NDArray[np.intp]:
    """Check ids and return the order that sorts them."""
    if ids.ndim != 1 or len(ids) == 0:
        raise ValueError(
            "`item_ids` must be one-dimensional and not empty. "
            f"Received: shape={ids.shape}"
        )
    if len(ids) >= np.iinfo(np.int32).max:
        raise ValueError(
            "`item_ids` must number fewer than 2**31 - 1, since rows are "
            f"int32. Received: {len(ids)}"
        )
    order = np.argsort(ids, kind="stable")
    for block in blocks(len(ids)):
        some = ids[order[block.start : block.stop + 1]]
        if (some[1:] == some[:-1]).any():
            repeated = some[1:][some[1:] == some[:-1]][0]
            raise ValueError(
                "`item_ids` must be unique; keep one row per id. "
                f"Received: {repeated} more than once"
            )
        if (some == 0).any():
            raise ValueError(
                "`item_ids` must not contain 0, which means padding. "
                f"Received: 0 at position {int(np.flatnonzero(ids == 0)[0])}"
            )
    return order


def _check_codes(codes: npt.NDArray[Any], num_items: int) -> None:
    """Check type and shape of the vectors."""
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


def _check_features(
    features: Mapping[str, npt.ArrayLike], num_items: int
) -> dict[str, npt.NDArray[np.int64]]:
    """Check the features and return them as int64."""
    if set(features) != set(FEATURE_NAMES):
        raise ValueError(
            f"`features` must be exactly {list(FEATURE_NAMES)}. "
            f"Received: {sorted(features)}"
        )
    columns = {}
    for name in FEATURE_NAMES:
        column = _as_int64(f"features[{name!r}]", features[name])
        if column.shape != (num_items,):
            raise ValueError(
                f"`features[{name!r}]` must have shape ({num_items},), one "
                f"value per item id. Received: shape={column.shape}"
            )
        columns[name] = column
    return columns


def _check_target(target: Path) -> None:
    """Refuse to write over anything but an empty directory."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(
            f"{target} exists and is not an empty directory; an item table "
            "is never overwritten."
        )


@contextmanager
def _making(
    target: Path,
    ids: npt.NDArray[np.int64],
    order: npt.NDArray[np.intp],
    dim: int,
    features: Mapping[str, npt.ArrayLike],
    source: str,
) -> Iterator[npt.NDArray[np.int8]]:
    """Make a table beside its place, and rename it when its codes are there.

    Args:
        target: directory of the table.
        ids: int64 (N,), checked.
        order: what sorts them.
        dim: D.
        features: as of `ItemTable.write`, aligned with `ids`.
        source: kept in the manifest.

    Yields:
        int8 (N, D), zeros, mapped; row i is that of `ids[order[i]]`.
    """
    columns = _check_features(features, len(ids))
    _check_target(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{target.name}.", dir=target.parent
    ) as temporary:
        folder = Path(temporary) / "table"
        folder.mkdir()
        np.save(folder / _IDS_FILE, ids[order])
        _write_features(folder / _FEATURES_FILE, columns, order)
        codes = _mapped_zeros(folder / _CODES_FILE, (len(ids) + 1, dim))
        yield codes[1:]
        codes.flush()
        release_pages(codes)
        del codes
        manifest = {
            "format_version": FORMAT_VERSION,
            "num_items": len(ids),
            "dim": dim,
            "scale": SCALE,
            "source": source,
            "files": {
                name: describe_file(folder / name)
                for name in (_IDS_FILE, _CODES_FILE, _FEATURES_FILE)
            },
        }
        (folder / _MANIFEST_FILE).write_text(
            json.dumps(manifest, indent=2, sort_keys=True) + "\n",
            encoding="utf-8",
        )
        os.replace(folder, target)


def _mapped_zeros(file: Path, shape: tuple[int, int]) -> np.memmap:
    """Make an .npy file of int8 zeros and map it for writing."""
    codes = np.lib.format.open_memmap(file, "w+", np.int8, shape)
    if hasattr(os, "posix_fallocate"):
        # A disk that gets full under a mapping would kill the process.
        with file.open("r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, file.stat().st_size)
    return codes


def _write_features(
    file: Path,
    columns: Mapping[str, npt.NDArray[np.int64]],
    order: npt.NDArray[np.intp],
) -> None:
    """Write the features in sorted order after a zero row, as `np.savez`."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, column in columns.items():
            # Without a date, equal tables are equal files.
            member = zipfile.ZipInfo(f"{name}.npy")
            with archive.open(member, "w", force_zip64=True) as stream:
                _write_sorted(stream, column, order)


def _write_sorted(
    stream: IO[bytes], values: npt.NDArray[Any], order: npt.NDArray[np.intp]
) -> None:
    """Write `values[order]` after a zero row as .npy, block by block."""
    np.lib.format.write_array_header_1_0(
        stream,
        {
            "descr": np.lib.format.dtype_to_descr(values.dtype),
            "fortran_order": False,
            "shape": (len(values) + 1, *values.shape[1:]),
        },
    )
    stream.write(np.zeros(values.shape[1:], values.dtype).tobytes())
    for block in blocks(len(values)):
        stream.write(values[order[block]].tobytes())


def describe_file(file: Path) -> dict[str, Any]:
    """Return size and SHA-256 of a file."""
    return {"bytes": file.stat().st_size, "sha256": _sha256(file)}


def _sha256(file: Path) -> str:
    """Return the SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check the manifest."""
    file = folder / _MANIFEST_FILE
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not valid JSON ({error}).") from error
    version = (
        manifest.get("format_version") if isinstance(manifest, dict) else None
    )
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{file}: `format_version` must be {FORMAT_VERSION}. "
            f"Received: {version}"
        )
    missing = {"num_items", "dim", "files"} - set(manifest)
    if missing:
        raise ValueError(f"{file}: `{min(missing)}` is missing.")
    return manifest


def check_file(
    folder: Path, name: str, manifest: dict[str, Any], verify: bool
) -> None:
    """Compare a file with what the manifest says of it."""
    file = folder / name
    described = manifest["files"].get(name)
    if described is None:
        raise ValueError(
            f"{folder / _MANIFEST_FILE}: `files` does not list {name}."
        )
    size = file.stat().st_size
    if size != described["bytes"]:
        raise ValueError(
            f"{file}: expected {described['bytes']} bytes, found {size}; the "
            "file is truncated or was changed."
        )
    if verify and _sha256(file) != described["sha256"]:
        raise ValueError(
            f"{file}: SHA-256 differs from the manifest; the file was changed."
        )
    if name == _FEATURES_FILE and not zipfile.is_zipfile(file):
        raise ValueError(f"{file}: not a NumPy .npz archive.")


def _map(file: Path, dtype: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Memory-map an array and check its type and shape."""
    array = np.load(file, mmap_mode="r", allow_pickle=False)
    if array.dtype != np.dtype(dtype) or array.shape != shape:
        raise ValueError(
            f"{file}: expected {dtype} {shape}, found {array.dtype} "
            f"{array.shape}."
        )
    return array


def _map_member(file: Path, name: str) -> npt.NDArray[np.int64]:
    """Memory-map one array of an uncompressed .npz archive."""
    with zipfile.ZipFile(file) as archive:
        member = archive.getinfo(f"{name}.npy")
        if member.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{file}: `{name}` must not be compressed.")
    with file.open("rb") as stream:
        # A member's own header: 30 bytes, the last four of which are the
        # lengths of its name and of an extra field, then these two.
        stream.seek(member.header_offset + 26)
        name_size, extra_size = struct.unpack("<HH", stream.read(4))
        stream.seek(name_size + extra_size, os.SEEK_CUR)
        np.lib.format.read_magic(stream)
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        return np.memmap(file, dtype, "r", stream.tell(), shape)
