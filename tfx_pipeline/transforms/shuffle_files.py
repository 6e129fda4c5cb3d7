"""Passes batches through the shuffle between two steps of a join.

A step sends each batch under the key that it is grouped by. On a cluster, whose
runner shuffles on disk, the batch itself is sent. Local runners keep shuffled
data in memory, so there a step writes its batches to a shuffle file and sends
only their places in it, a few bytes per key. Such files work with every runner
whose workers share the folder.
"""

from __future__ import annotations

import contextlib
import io
import uuid
from collections.abc import Hashable, Iterable, Iterator

import apache_beam as beam
import pyarrow as pa
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from tfx_pipeline.transforms import arrow_batches

Sent = bytes | tuple[str, tuple[int, ...]]
"""A serialized batch, or a file with the offset and length of each batch."""


# These runners keep shuffled data in memory.
_LOCAL_RUNNERS = (
    "DirectRunner",
    "BundleBasedDirectRunner",
    "SwitchingDirectRunner",
    "FnApiRunner",
)


@contextlib.contextmanager
def directory_for(
    runner: beam.runners.PipelineRunner, temporary: str
) -> Iterator[str | None]:
    """Yields a folder for shuffle files, or None if the runner needs none."""
    if type(runner).__name__ not in _LOCAL_RUNNERS:
        yield None
        return
    folder = FileSystems.join(temporary, "shuffle")
    try:
        yield folder
    finally:
        # Object storage has no folders that could be deleted.
        (found,) = FileSystems.match([FileSystems.join(folder, "*")])
        FileSystems.delete([one.path for one in found.metadata_list])
        if FileSystems.exists(folder):
            FileSystems.delete([folder])


class ShuffleFile:
    """The batches that a step sends.

    Args:
        directory: where to write them, on any file system that Beam supports;
            None to send the batches themselves.
    """

    def __init__(self, directory: str | None) -> None:
        self._directory = directory
        self._path = ""
        self._file: io.BufferedIOBase | None = None
        self._end = 0
        self._places: dict[Hashable, list[int]] = {}

    def put(
        self, key: Hashable, batch: pa.RecordBatch
    ) -> Iterator[tuple[Hashable, Sent]]:
        """Writes a batch to the file; without a folder, yields the batch."""
        data = arrow_batches.serialize(batch)
        if self._directory is None:
            yield key, data
            return
        if self._file is None:
            self._path = FileSystems.join(self._directory, uuid.uuid4().hex)
            self._file = FileSystems.create(
                self._path, compression_type=CompressionTypes.UNCOMPRESSED
            )
        self._file.write(data)
        self._places.setdefault(key, []).extend((self._end, len(data)))
        self._end += len(data)

    def flush(self) -> Iterator[tuple[Hashable, Sent]]:
        """Closes the file; yields the places of each key's batches in it."""
        self._close()
        for key, places in self._places.items():
            yield key, (self._path, tuple(places))
        self._places = {}

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    def __enter__(self) -> ShuffleFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()


def read(sent: Iterable[Sent]) -> Iterator[pa.RecordBatch]:
    """Yields the batches that were sent, one in memory at a time."""
    for one in sent:
        if isinstance(one, bytes):
            yield arrow_batches.deserialize(one)
            continue
        path, places = one
        with FileSystems.open(
            path, compression_type=CompressionTypes.UNCOMPRESSED
        ) as file:
            for offset, length in zip(places[::2], places[1::2], strict=True):
                file.seek(offset)
                yield arrow_batches.deserialize(file.read(length))
