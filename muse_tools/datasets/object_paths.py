"""Paths of raw tables, on this machine or in object storage.

An address such as ``s3://bucket/folder``, ``gs://…`` or ``hdfs://…`` is read
with pyarrow's own file systems, which need no other package. Keys, regions and
proxies come from where the vendors' tools find them. The environment variable
AWS_ENDPOINT_URL names an S3 server other than Amazon's.
"""

from __future__ import annotations

import errno
import fnmatch
import functools
import io
import os
import pathlib
import re
import types
from collections.abc import Iterator
from typing import IO, Any, cast

import pyarrow as pa
from pyarrow import fs

from muse_tools.datasets.errors import DataError
from serving import model_storage

_ADDRESS = re.compile(r"[a-z][a-z0-9]+:/+")


def path_of(text: str | os.PathLike[str]) -> pathlib.Path:
    """Returns a path, or for an address an `ObjectPath`.

    The readers of raw tables use only what both have.
    """
    if isinstance(text, ObjectPath) or _ADDRESS.match(os.fspath(text)):
        return cast(pathlib.Path, ObjectPath(text))
    return pathlib.Path(text)


def source(path: str | os.PathLike[str]) -> pathlib.Path | pa.NativeFile:
    """Returns what pyarrow reads: the path, or the open object."""
    found = path_of(path)
    return found.open("rb") if isinstance(found, ObjectPath) else found


class ObjectPath(pathlib.PurePosixPath):
    """A path whose first parts are the scheme and the bucket or host.

    It has the methods of `pathlib.Path` that reading needs. They raise
    `DataError` ``STORAGE`` if the storage cannot be reached.
    """

    def __str__(self) -> str:
        return super().__str__().replace(":/", "://", 1)

    def _place(self) -> tuple[fs.FileSystem, str]:
        """Returns the file system and the path within it."""
        root = "//".join(self.parts[:2])
        server = os.environ.get("AWS_ENDPOINT_URL", "")
        system, base = _file_system(root, server)
        return system, "/".join([base, *self.parts[2:]])

    def _infos(self, children: bool = False) -> Any:
        try:
            system, inner = self._place()
            return system.get_file_info(
                fs.FileSelector(inner) if children else inner
            )
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                "STORAGE",
                f"{self} cannot be read: {error}.",
                "check the address, the keys (such as AWS_ACCESS_KEY_ID), the "
                "region and, for another server than Amazon's, "
                "AWS_ENDPOINT_URL.",
            ) from error

    def is_dir(self) -> bool:
        """Returns whether this is a folder, or a prefix of objects."""
        return bool(self._infos().type == fs.FileType.Directory)

    def is_file(self) -> bool:
        """Returns whether this is an object."""
        return bool(self._infos().type == fs.FileType.File)

    def iterdir(self) -> Iterator[ObjectPath]:
        """Yields the files and folders in this folder."""
        for info in self._infos(children=True):
            yield self / info.base_name

    def glob(self, pattern: str) -> Iterator[ObjectPath]:
        """Yields what matches a pattern of names, without ``**``."""
        found: list[ObjectPath] = [self]
        for part in pattern.split("/"):
            found = [
                child
                for folder in found
                if folder.is_dir()
                for child in folder.iterdir()
                if fnmatch.fnmatchcase(child.name, part)
            ]
        yield from found

    def open(self, mode: str = "r", encoding: str | None = None) -> IO[Any]:
        """Opens the object for reading, as text or bytes (``rb``)."""
        self.stat()
        system, inner = self._place()
        file = system.open_input_file(inner)
        return file if "b" in mode else io.TextIOWrapper(file, encoding)

    def stat(self) -> Any:
        """Returns size and time of change; an object has no inode."""
        info = self._infos()
        if info.type == fs.FileType.NotFound:
            raise FileNotFoundError(
                errno.ENOENT, os.strerror(errno.ENOENT), str(self)
            )
        return types.SimpleNamespace(
            st_size=info.size or 0,
            st_mtime_ns=info.mtime_ns or 0,
            st_ctime_ns=info.mtime_ns or 0,
            st_ino=0,
        )

    def absolute(self) -> ObjectPath:
        """Returns this path, as an address is absolute."""
        return self


@functools.cache
def _file_system(root: str, server: str) -> tuple[fs.FileSystem, str]:
    """Returns the file system of a root (``s3://bucket``), and its folder.

    ``server`` is that of S3, which changes the result.
    """
    return model_storage.open_storage(root)
