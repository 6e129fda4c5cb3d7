"""Converts CSV and JSON lines to Parquet once, to be read like other tables.

The Parquet files lie in ``.muse_parquet/`` beside the data, or in the folder
named by the environment variable MUSE_PARQUET_CACHE. Their names hold a digest
of the source's name, size, times and inode and a digest of the declared types,
so a file is converted again when either changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import zlib
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from muse_tools.datasets import casting, csv_rows, decoding, json_rows
from muse_tools.datasets.errors import DataError
from muse_tools.datasets.object_paths import ObjectPath
from muse_tools.datasets.table_schemas import ACTION, column_of
from serving.files import appearing

CACHE_VARIABLE = "MUSE_PARQUET_CACHE"
_CACHE = ".muse_parquet"
_VERSION = "1"
_READERS = {
    ".csv": csv_rows.read,
    ".csv.gz": csv_rows.read,
    ".tsv": csv_rows.read,
    ".tsv.gz": csv_rows.read,
    ".jsonl": json_rows.read,
    ".jsonl.gz": json_rows.read,
}
ENDINGS = tuple(_READERS)
"""Endings of the names of files that are converted."""


def ending_of(path: pathlib.Path) -> str:
    """Returns the ending of a file among `ENDINGS`, or an empty text."""
    name = path.name.lower()
    return next((one for one in ENDINGS if name.endswith(one)), "")


def column_types(
    schemas: Sequence[pa.Schema],
) -> dict[str, pa.DataType | None]:
    """Returns the type of each declared column; None if the file decides.

    Labels may be 0 and 1 or true and false; the content of the file decides.
    Times have the type of moments in the declared zone, and may be numbers.
    """
    found: dict[str, pa.DataType | None] = {}
    for schema in schemas:
        for field in schema:
            how, column = field.metadata or {}, column_of(field)
            kind: pa.DataType | None = casting.leaf(field.type)
            if decoding.TEXT in how or field.name == ACTION:
                kind = pa.string()
            elif decoding.NUMBER in how or decoding.AT_LEAST in how:
                kind = pa.float64()
            elif decoding.TIME in how:
                kind = pa.timestamp("us", how[decoding.TIME].decode())
            elif decoding.FLAG in how:
                kind = None
            elif pa.types.is_int8(kind):
                kind = pa.float64()
            if casting.is_list(field.type):
                kind = pa.list_(kind)
            if found.get(column) != pa.string():
                found[column] = kind
    return found


def as_parquet(
    root: pathlib.Path,
    paths: Sequence[pathlib.Path],
    types: Mapping[str, pa.DataType | None],
) -> tuple[pathlib.Path, ...]:
    """Returns the Parquet files of paths, after converting other files."""
    return tuple(
        _converted(root, path, types) if ending_of(path) else path
        for path in paths
    )


def _converted(
    root: pathlib.Path,
    path: pathlib.Path,
    types: Mapping[str, pa.DataType | None],
) -> pathlib.Path:
    if isinstance(root, ObjectPath):
        raise DataError(
            "TEXT_IN_STORAGE",
            f"{path} is not Parquet. Expected: Parquet in object storage.",
            "copy the tables to a folder and convert them there with "
            "`muse data inspect`, or write them as Parquet.",
        )
    own = os.environ.get(CACHE_VARIABLE)
    cache = root / _CACHE
    if own:
        place = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
        cache = pathlib.Path(own).expanduser() / place
    # Keeps the names of folders, which may be partitions.
    folder = cache / path.parent.relative_to(root)
    source = _digest(path.name, *file_state(path))
    how = _digest(_VERSION, *sorted(types.items(), key=lambda one: one[0]))
    target = folder / f"{path.name}-{source}-{how}.parquet"
    if target.is_file():
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _convert(path, types, target)
    except PermissionError as error:
        raise DataError(
            "UNWRITABLE_CACHE",
            f"{path} cannot be converted to Parquet in {folder}: {error}.",
            f"set {CACHE_VARIABLE} to a folder that can be written.",
        ) from error
    for old in folder.glob(f"{glob_safe(path.name)}-*-*.parquet"):
        if f"-{source}-" not in old.name:
            old.unlink(missing_ok=True)
    return target


def file_state(path: pathlib.Path) -> list[int]:
    """Returns what changes when a file is written: size, times, inode."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def glob_safe(name: str) -> str:
    """Returns a glob pattern that matches only this name."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _digest(*values: object) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()[:12]


def _convert(
    path: pathlib.Path,
    types: Mapping[str, pa.DataType | None],
    target: pathlib.Path,
) -> None:
    with contextlib.ExitStack() as stack:
        batches = read(path, types)
        schema = next(batches).schema
        writer = stack.enter_context(
            pq.ParquetWriter(
                stack.enter_context(appearing(target)),
                schema,
                version="2.6",
                compression="snappy",
            )
        )
        for batch in batches:
            writer.write_table(pa.Table.from_batches([batch], schema))


def read(
    path: pathlib.Path, types: Mapping[str, pa.DataType | None]
) -> Iterator[pa.RecordBatch]:
    """Streams a CSV or JSON file; the first batch is empty, with the schema.

    Columns that are not in `types` have the type null and no values.
    """
    with reading(path):
        yield from _READERS[ending_of(path)](path, types)


@contextlib.contextmanager
def reading(path: pathlib.Path) -> Iterator[None]:
    """Turns errors about the content of a file into one that names it."""
    try:
        yield
    except (
        pa.ArrowException,
        EOFError,
        OSError,
        UnicodeDecodeError,
        zlib.error,
    ) as error:
        if getattr(error, "errno", None):
            raise
        raise DataError(
            "UNREADABLE_FILE",
            f"{path} ({path.stat().st_size:,} bytes) cannot be read: {error}.",
            "write it as UTF-8 text with the ending that says what it is "
            f"({', '.join(ENDINGS)}), or as Parquet.",
        ) from error
