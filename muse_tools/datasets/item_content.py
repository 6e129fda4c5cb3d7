"""Item content on disk: the vectors of every item by modality.

The content is a directory, written once and memory-mapped by its readers:

- ``item_ids.npy`` int64 (N,): sorted, unique, never 0.
- ``<modality>.npy`` float16 or float32 (N, width): row i belongs to
  ``item_ids[i]``; a zero row means that the item lacks this modality.
- ``manifest.json``: modalities and their widths, number of items, text
  encoder, source, size and SHA-256 of each file.
"""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Mapping
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from muse_keras.tables.array_blocks import blocks
from muse_keras.tables.item_ids import check_ids, is_sorted_unique, rows_of
from muse_keras.tables.table_files import (
    IDS_FILE,
    check_file,
    check_vacant,
    map_array,
    read_manifest,
    write_manifest,
)

_DTYPES = ("float16", "float32")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_RESERVED = ("item_ids", "manifest")


def check_modality(name: str) -> None:
    """Checks the name of a modality, which also names its file."""
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise ValueError(
            "modality: expected letters, digits and underscores, a letter "
            f"first, none of {list(_RESERVED)}. Received: {name!r}"
        )


class ItemContent:
    """Item ids and their modality vectors, opened read-only.

    `ItemContentWriter` writes content and `ItemContent.open` reads it. Arrays
    are memory-mapped, so opening takes milliseconds for any size.
    `modalities` maps names to widths, in alphabetical order.
    """

    def __init__(
        self,
        path: pathlib.Path,
        manifest: dict[str, Any],
        item_ids: npt.NDArray[np.int64],
        vectors: Mapping[str, npt.NDArray[Any]],
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.item_ids = item_ids
        self.modalities = {k: v.shape[1] for k, v in vectors.items()}
        self._vectors = dict(vectors)

    def __len__(self) -> int:
        return len(self.item_ids)

    def rows_of(self, ids: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Returns the row of every id, int64 of the same shape; or -1."""
        return rows_of(self.item_ids, ids).astype(np.int64) - 1

    def features(
        self, rows: npt.ArrayLike
    ) -> dict[str, npt.NDArray[np.float32]]:
        """Reads the vectors (..., width) of rows (...); zeros for row -1."""
        wanted = np.asarray(rows, np.int64)
        flat = wanted.reshape(-1)
        known = flat >= 0
        found = {}
        for name, vectors in self._vectors.items():
            values = np.zeros((len(flat), vectors.shape[1]), np.float32)
            values[known] = vectors[flat[known]]
            found[name] = values.reshape(*wanted.shape, vectors.shape[1])
        return found

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], verify: bool = False
    ) -> ItemContent:
        """Memory-maps item content; `verify` checks files and ids as well.

        Raises:
            ValueError: if a file is missing, damaged or of another shape.
        """
        folder = pathlib.Path(path)
        manifest = read_manifest(folder, "modalities")
        count = manifest["num_items"]
        check_file(folder, IDS_FILE, manifest, verify)
        item_ids = map_array(folder / IDS_FILE, ("int64",), (count,))
        vectors = {}
        for name, width in sorted(manifest["modalities"].items()):
            check_file(folder, f"{name}.npy", manifest, verify)
            vectors[name] = map_array(
                folder / f"{name}.npy", _DTYPES, (count, width)
            )
        if verify and not is_sorted_unique(item_ids):
            raise ValueError(
                f"{folder / IDS_FILE}: expected ids that are sorted, unique "
                "and not 0; write the content again."
            )
        return cls(folder, manifest, item_ids, vectors)

    def __repr__(self) -> str:
        return (
            f"ItemContent(num_items={len(self)}, "
            f"modalities={self.modalities}, path={str(self.path)!r})"
        )


class ItemContentWriter:
    """Writes item content; `modalities` maps names to widths.

    Items may come in any order. Their vectors are written at once and sorted by
    id at the end, block by block, so memory holds only eight bytes per item.
    The directory gets its name when the ``with`` block ends without an error.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        modalities: Mapping[str, int],
        dtypes: Mapping[str, str] | None = None,
        encoder: str = "",
        source: str = "",
    ) -> None:
        self.path = pathlib.Path(path)
        self.modalities = dict(sorted(modalities.items()))
        self._dtypes = {
            name: (dtypes or {}).get(name, "float32") for name in modalities
        }
        self._encoder = encoder
        self._source = source
        self._ids: list[npt.NDArray[np.int64]] = []
        if not modalities:
            raise ValueError("modalities: expected at least one. Received: {}")
        for name, width in modalities.items():
            check_modality(name)
            if width < 1 or self._dtypes[name] not in _DTYPES:
                raise ValueError(
                    f"modalities: expected a width of 1 or more and one of "
                    f"{list(_DTYPES)} for {name}. Received: {width}, "
                    f"{self._dtypes[name]}"
                )
        check_vacant(self.path, "item content")

    def __enter__(self) -> ItemContentWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._folder = pathlib.Path(
            tempfile.mkdtemp(prefix=f".{self.path.name}.", dir=self.path.parent)
        )
        self._parts: dict[str, IO[bytes]] = {
            name: (self._folder / f"{name}.part").open("w+b")
            for name in self.modalities
        }
        return self

    def add(
        self,
        item_ids: npt.ArrayLike,
        features: Mapping[str, npt.ArrayLike],
    ) -> None:
        """Appends items: ids (N,), and vectors (N, width) by modality."""
        ids = np.asarray(item_ids, np.int64)
        if set(features) != set(self.modalities):
            raise ValueError(
                f"features: expected {list(self.modalities)}. Received: "
                f"{sorted(features)}"
            )
        for name, width in self.modalities.items():
            with np.errstate(over="ignore"):
                values = np.asarray(features[name]).astype(self._dtypes[name])
            if values.shape != (len(ids), width):
                raise ValueError(
                    f"features[{name!r}]: expected shape {(len(ids), width)}. "
                    f"Received: {values.shape}"
                )
            if not np.isfinite(values).all():
                raise ValueError(
                    f"features[{name!r}]: expected finite values in "
                    f"{self._dtypes[name]}. Received: NaN or infinity"
                )
            self._parts[name].write(np.ascontiguousarray(values).tobytes())
        self._ids.append(ids)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Sorts and moves the directory into place, or removes it."""
        try:
            if kind is None:
                self._finish()
                self._folder.chmod(0o755)
                os.replace(self._folder, self.path)
        finally:
            for part in self._parts.values():
                part.close()
            shutil.rmtree(self._folder, ignore_errors=True)

    def _finish(self) -> None:
        ids = np.concatenate([np.zeros(0, np.int64), *self._ids])
        order = check_ids(ids)
        np.save(self._folder / IDS_FILE, ids[order])
        for name, width in self.modalities.items():
            part = self._parts[name]
            part.flush()
            values = np.memmap(
                part.name, self._dtypes[name], "r", shape=(len(ids), width)
            )
            with (self._folder / f"{name}.npy").open("wb") as stream:
                np.lib.format.write_array_header_1_0(
                    stream, np.lib.format.header_data_from_array_1_0(values)
                )
                for block in blocks(len(ids)):
                    stream.write(values[order[block]].tobytes())
            del values
            part.close()
            os.unlink(part.name)
        files = [IDS_FILE, *(f"{name}.npy" for name in self.modalities)]
        write_manifest(
            self._folder,
            files,
            num_items=len(ids),
            modalities=self.modalities,
            encoder=self._encoder,
            source=self._source,
        )
