"""The files of an item table: written at once, checked and mapped."""

import dataclasses
import hashlib
import json
import os
import struct
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from muse_keras.tables.array_blocks import blocks, read_blocks
from muse_keras.tables.item_ids import as_int64

FORMAT_VERSION = 1
SCALE = 1.0 / 127.0

IDS_FILE = "item_ids.npy"
CODES_FILE = "scl_int8.npy"
FEATURES_FILE = "item_features.npz"
_MANIFEST_FILE = "manifest.json"


Blocks = Iterable[npt.NDArray[Any]]


@dataclasses.dataclass(frozen=True)
class Rows:
    """An array (n, ...) that is written block by block.

    Attributes:
        dtype: dtype of the rows.
        shape: shape of one row.
        blocks: consecutive rows, read once.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    blocks: Blocks

    @classmethod
    def ordered(
        cls, values: npt.NDArray[Any], order: npt.NDArray[np.intp]
    ) -> "Rows":
        """Return `values[order]`."""
        found = (values[order[block]] for block in blocks(len(order)))
        return cls(values.dtype, values.shape[1:], found)

    @classmethod
    def joined(cls, parts: Sequence[npt.NDArray[Any]]) -> "Rows":
        """Return the rows of mapped arrays, one after the other."""
        found = (rows for part in parts for _, rows in read_blocks(part))
        return cls(parts[0].dtype, parts[0].shape[1:], found)

    def write(self, stream: IO[bytes], size: int) -> None:
        """Write `size` rows as .npy."""
        np.lib.format.write_array_header_1_0(
            stream,
            {
                "descr": np.lib.format.dtype_to_descr(self.dtype),
                "fortran_order": False,
                "shape": (size, *self.shape),
            },
        )
        for block in self.blocks:
            stream.write(block.tobytes())

    def after_missing(self) -> "Rows":
        """Return the rows after one of missing values."""
        missing = np.nan if self.dtype.kind == "f" else 0
        first = np.full((1, *self.shape), missing, self.dtype)
        return dataclasses.replace(self, blocks=chain([first], self.blocks))


def write_table(
    target: Path,
    num_items: int,
    ids: Rows,
    codes: Rows,
    features: Mapping[str, Rows],
    source: str,
    schema: Mapping[str, Any] | None,
) -> None:
    """Make a table next to its place, and rename it when it is complete.

    Rows are those of the ids, which ascend. Memory holds one block. `source`
    and `schema` are as of `ItemTable.write`.
    """
    check_vacant(target, "an item table")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{target.name}.", dir=target.parent
    ) as temporary:
        folder = Path(temporary) / "table"
        folder.mkdir()
        with (folder / IDS_FILE).open("wb") as stream:
            ids.write(stream, num_items)
        with (folder / CODES_FILE).open("wb") as stream:
            codes.after_missing().write(stream, num_items + 1)
        with zipfile.ZipFile(folder / FEATURES_FILE, "w") as archive:
            for name, column in features.items():
                # Without a date, so that equal tables make equal files.
                member = zipfile.ZipInfo(f"{name}.npy")
                with archive.open(member, "w", force_zip64=True) as stream:
                    column.after_missing().write(stream, num_items + 1)
        write_manifest(
            folder,
            (IDS_FILE, CODES_FILE, FEATURES_FILE),
            num_items=num_items,
            dim=codes.shape[0],
            scale=SCALE,
            source=source,
            **({"schema": dict(schema)} if schema else {}),
        )
        os.replace(folder, target)


def check_features(
    features: Mapping[str, npt.ArrayLike], num_items: int
) -> dict[str, npt.NDArray[Any]]:
    """Return features as int64 or float32, a row for each item."""
    columns: dict[str, npt.NDArray[Any]] = {}
    for name, values in features.items():
        label = f"features[{name!r}]"
        column = np.asarray(values)
        if column.dtype.kind == "f":
            column = column.astype(np.float32, copy=False)
        else:
            column = as_int64(label, column)
        if column.shape[:1] != (num_items,) or column.ndim > 2:
            raise ValueError(
                f"`{label}` must have shape ({num_items},) or ({num_items}, "
                "width), a row for each item id. "
                f"Received: shape={column.shape}"
            )
        columns[name] = column
    return columns


def check_vacant(target: Path, what: str) -> None:
    """Refuse to write over anything but an empty directory."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(
            f"{target} exists and is not an empty directory; {what} is never "
            "overwritten."
        )


def write_manifest(folder: Path, files: Iterable[str], **content: Any) -> None:
    """Write the manifest, with size and SHA-256 of each file."""
    manifest = {
        "format_version": FORMAT_VERSION,
        **content,
        "files": {
            name: {
                "bytes": (folder / name).stat().st_size,
                "sha256": _sha256(folder / name),
            }
            for name in files
        },
    }
    (folder / _MANIFEST_FILE).write_text(
        json.dumps(manifest, indent=2, sort_keys=True) + "\n",
        encoding="utf-8",
    )


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def read_manifest(folder: Path, described: str = "dim") -> dict[str, Any]:
    """Read the manifest; check its version and that it has what is needed."""
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
    missing = {"num_items", described, "files"} - set(manifest)
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
    if name == FEATURES_FILE and not zipfile.is_zipfile(file):
        raise ValueError(f"{file}: not a NumPy .npz archive.")


def map_array(
    file: Path, dtypes: tuple[str, ...], shape: tuple[int, ...]
) -> npt.NDArray[Any]:
    """Memory-map an array and check its type and shape."""
    array = np.load(file, mmap_mode="r", allow_pickle=False)
    if array.dtype not in map(np.dtype, dtypes) or array.shape != shape:
        raise ValueError(
            f"{file}: expected {' or '.join(dtypes)} {shape}, found "
            f"{array.dtype} {array.shape}."
        )
    return array


def map_members(file: Path) -> dict[str, npt.NDArray[Any]]:
    """Memory-map the arrays of an uncompressed .npz archive, by name."""
    with zipfile.ZipFile(file) as archive:
        return {
            member.filename.removesuffix(".npy"): _map_member(file, member)
            for member in archive.infolist()
        }


def _map_member(file: Path, member: zipfile.ZipInfo) -> npt.NDArray[Any]:
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{file}: {member.filename} must not be compressed.")
    with file.open("rb") as stream:
        # A member's own header: 30 bytes, the last four of which are the
        # lengths of its name and of an extra field, then these two.
        stream.seek(member.header_offset + 26)
        name_size, extra_size = struct.unpack("<HH", stream.read(4))
        stream.seek(name_size + extra_size, os.SEEK_CUR)
        np.lib.format.read_magic(stream)
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        return np.memmap(file, dtype, "r", stream.tell(), shape)
