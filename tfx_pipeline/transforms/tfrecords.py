"""Writes gzip TFRecord files, many records at a time.

Compression takes most of the time. It runs in a separate thread while the
caller makes the next block of records, and at zlib's fastest level, which takes
half the time of the default level and makes somewhat larger files.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Iterable
from concurrent import futures

import google_crc32c
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

_UNFINISHED = ".tmp"
_LEVEL = 1
_GZIP = 16 + zlib.MAX_WBITS


def frame(records: Iterable[bytes]) -> bytes:
    """Returns records in the TFRecord framing.

    Each is its length (uint64), the length's masked CRC-32C, the data and the
    data's masked CRC-32C, all little-endian.
    """
    parts: list[bytes] = []
    for record in records:
        length = struct.pack("<Q", len(record))
        parts += (length, _masked_crc(length), record, _masked_crc(record))
    return b"".join(parts)


def _masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    rotated = (crc >> 15 | crc << 17) & 0xFFFFFFFF
    return struct.pack("<I", (rotated + 0xA282EAD8) & 0xFFFFFFFF)


def remove_unfinished(folder: str) -> None:
    """Removes files of writers that were killed, which readers would read."""
    pattern = FileSystems.join(folder, f"*{_UNFINISHED}")
    (found,) = FileSystems.match([pattern])
    FileSystems.delete([one.path for one in found.metadata_list])


class TFRecordWriter:
    """Writes one gzip TFRecord file, completely or not at all.

    The file gets its name when the ``with`` block ends without an error. A
    second writer of the same file replaces it, so a runner may repeat the work.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._temporary = f"{path}.{uuid.uuid4().hex}{_UNFINISHED}"
        self._gzip = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
        self._pool = futures.ThreadPoolExecutor(1)
        self._pending: futures.Future[None] | None = None

    def write(self, records: Iterable[bytes]) -> None:
        """Appends records, after waiting for those of the previous call."""
        data = frame(records)
        self._wait()
        self._pending = self._pool.submit(self._compress, data)

    def _compress(self, data: bytes) -> None:
        self._file.write(self._gzip.compress(data))

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def __enter__(self) -> TFRecordWriter:
        self._file = FileSystems.create(
            self._temporary, compression_type=CompressionTypes.UNCOMPRESSED
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Moves the file into place, or removes it after an error."""
        try:
            with self._file:
                self._pool.shutdown()
                if kind is None:
                    self._wait()
                    self._file.write(self._gzip.flush())
            if kind is None:
                FileSystems.rename([self._temporary], [self._path])
        finally:
            if FileSystems.exists(self._temporary):
                FileSystems.delete([self._temporary])
