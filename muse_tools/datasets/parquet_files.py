"""Finds, opens and diagnoses Parquet files as other writers leave them.

A path is never a pattern, and every file in a table's folder is data unless
its name says otherwise (`data_files`).
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import pathlib
import re
import urllib.parse
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from muse_tools.datasets import casting
from muse_tools.datasets.errors import DataError
from muse_tools.datasets.object_paths import source
from serving.files import PARQUET_MAGIC, parquet_footer

_READ_BUFFER_BYTES = 4 << 20
_TARGET_BATCH_BYTES = 32 << 20
_MAX_BATCH_ROWS = 1 << 17
# Bytes of memory per float while it is cast to an integer or a code.
_BYTES_OF_FLOATS = 40
_ENDINGS = (".parquet", ".parq", ".pq", "")
# Encodings that every reader supports.
_OLD_ENCODINGS = {
    "PLAIN",
    "PLAIN_DICTIONARY",
    "RLE",
    "RLE_DICTIONARY",
    "BIT_PACKED",
}
_NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
_TABLE_FORMATS = {
    "_delta_log": (
        "Delta Lake",
        "deltalake.DeltaTable(FOLDER).to_pyarrow_table()",
    ),
    "metadata": (
        "Iceberg",
        "pyiceberg.table.StaticTable.from_metadata(FILE).scan().to_arrow()",
    ),
    ".hoodie": ("Hudi", "spark.read.format('hudi').load(FOLDER)"),
}


def find_files(
    root: pathlib.Path, name: str, endings: Sequence[str] = ()
) -> tuple[pathlib.Path, ...]:
    """Returns the files of table `name` in `root`, sorted; maybe none.

    Files with one of the `endings` are found as well as Parquet. A name with
    ``*`` or ``?`` is a pattern. Raises `DataError` if there are several forms.
    """
    if {*"*?"} & {*name}:
        found = [p for p in sorted(root.glob(name)) if p.name[0] not in "_."]
        return tuple(
            itertools.chain.from_iterable(
                data_files(p) if p.is_dir() else [p] for p in found
            )
        )
    forms: list[tuple[str, tuple[pathlib.Path, ...]]] = []
    shards: list[pathlib.Path] = []
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        if path.name.startswith(f"{name}-") and path.suffix != ".crc":
            # Any ending is taken; a file that is not Parquet fails on reading.
            shards += data_files(path) if path.is_dir() else [path]
            continue
        ending = path.name.removeprefix(name).lower()
        if not path.name.startswith(name) or (
            ending not in (*_ENDINGS, *endings)
        ):
            continue
        if not path.is_dir():
            forms.append((path.name, (path,)))
        elif inside := data_files(path):
            forms.append((f"{path.name}/", inside))
    if shards:
        forms.append((f"{name}-*", tuple(shards)))
    if len(forms) > 1:
        raise DataError(
            "AMBIGUOUS_TABLE",
            f"table {name}: found as {' and '.join(f for f, _ in forms)} "
            f"in {root}. Expected: one form.",
            "remove or move away the copies that should not be read.",
        )
    return forms[0][1] if forms else ()


def data_files(folder: pathlib.Path) -> tuple[pathlib.Path, ...]:
    """Returns the files of a table's folder, sorted by path.

    These are all files with any ending, also in subfolders such as
    ``dt=2026-11-29/``, except names that begin with ``_`` or ``.`` (markers,
    unfinished files) and checksums (``.crc``).
    """
    found: list[pathlib.Path] = []
    for path in sorted(folder.iterdir()):
        known = _TABLE_FORMATS.get(path.name) if path.is_dir() else None
        if known and (
            path.name != "metadata" or any(path.glob("*.metadata.json"))
        ):
            raise DataError(
                "TABLE_FORMAT",
                f"{folder} is a {known[0]} table ({path.name}/): its files may "
                "hold removed and replaced rows. Expected: plain Parquet.",
                f"write the rows that count, from {known[1]}, as Parquet into "
                f"a new folder, and put it in the place of {folder.name}/.",
            )
        if path.name.startswith(("_", ".")) and "=" not in path.name:
            continue
        if path.is_dir():
            found += data_files(path)
        elif path.suffix != ".crc":
            found.append(path)
    return tuple(found)


def listing(folder: pathlib.Path) -> str:
    """Returns the first few names in a folder as text for messages."""
    names = [
        f"{path.name}/" if path.is_dir() else path.name
        for path in (sorted(folder.iterdir()) if folder.is_dir() else ())
    ]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more if names else "nothing"


def _partition(path: pathlib.Path) -> dict[str, str | int | None]:
    """Returns the columns that partition folders above a file stand for."""
    folders = itertools.takewhile(
        lambda part: part.partition("=")[0] and "=" in part,
        reversed(path.parts[:-1]),
    )
    found: dict[str, str | int | None] = {}
    for folder in reversed(list(folders)):
        name, _, text = map(urllib.parse.unquote, folder.partition("="))
        is_number = re.fullmatch(r"-?(0|[1-9][0-9]{0,18})", text)
        found[name] = (
            None
            if text == _NULL_PARTITION
            else int(text)
            if is_number and -(2**63) <= int(text) < 2**63
            else text
        )
    return found


@contextlib.contextmanager
def open_file(table: str, path: pathlib.Path) -> Iterator[pq.ParquetFile]:
    """Opens a file; Arrow and I/O errors become a `DataError` that names it.

    Column types are those of Parquet (`parquet_footer`).
    """
    metadata = None
    try:
        metadata = pq.read_metadata(pa.BufferReader(parquet_footer(path)))
        # With a buffer, column chunks are streamed; without it, a whole chunk
        # (gigabytes of histories) is read at once.
        with pq.ParquetFile(
            source(path), metadata=metadata, buffer_size=_READ_BUFFER_BYTES
        ) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise _diagnosis(table, path, error, metadata) from error


def schema_of(file: pq.ParquetFile, path: pathlib.Path) -> pa.Schema:
    """Returns the columns of a file, then those of its partition folders."""
    schema = file.schema_arrow.remove_metadata()
    for name, value in _partition(path).items():
        if name not in schema.names:
            schema = schema.append(pa.field(name, pa.scalar(value).type))
    return schema


def iter_batches(
    file: pq.ParquetFile,
    path: pathlib.Path,
    columns: Sequence[str],
    batch_rows: int,
    row_groups: Sequence[int] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Streams columns of an open file and of its partition folders."""
    inside = [name for name in columns if name in file.schema_arrow.names]
    constants = {
        name: value
        for name, value in _partition(path).items()
        if name in columns and name not in inside
    }
    for batch in file.iter_batches(
        batch_rows, row_groups, columns=inside or None
    ):
        if not batch.num_rows:
            continue
        arrays = [pa.array([v] * len(batch)) for v in constants.values()]
        yield (
            pa.RecordBatch.from_arrays(
                [*batch.columns, *arrays], [*batch.schema.names, *constants]
            )
            if constants
            else batch
        )


def _leaf_bytes(data_type: pa.DataType) -> int:
    try:
        return max(1, casting.leaf(data_type).bit_width // 8)
    except ValueError:
        return 16


def decoded_bytes(
    metadata: pq.FileMetaData, schema: pa.Schema
) -> Iterator[tuple[int, int]]:
    """Yields, per row group, its rows and the decoded bytes of a schema."""
    types = {f.name: f.type for f in schema}
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        size = 0
        for column in map(group.column, range(group.num_columns)):
            wanted = types.get(column.path_in_schema.split(".")[0])
            if wanted is None:
                continue
            rounded = column.physical_type in ("FLOAT", "DOUBLE")
            whole = pa.types.is_integer(casting.leaf(wanted))
            size += column.num_values * (
                _BYTES_OF_FLOATS if rounded and whole else _leaf_bytes(wanted)
            )
        yield group.num_rows, size


def rows_per_batch(metadata: pq.FileMetaData, schema: pa.Schema) -> int:
    """Returns a number of rows that decode to about 32 MB."""
    widest = max(
        (size / rows for rows, size in decoded_bytes(metadata, schema) if rows),
        default=1.0,
    )
    fitting = int(_TARGET_BATCH_BYTES // max(1.0, widest))
    return min(_MAX_BATCH_ROWS, max(1, fitting))


def _diagnosis(
    table: str,
    path: pathlib.Path,
    error: Exception,
    metadata: pq.FileMetaData | None,
) -> DataError:
    """Distinguishes a damaged file from one that this pyarrow cannot read."""
    if getattr(error, "errno", None) in (errno.EACCES, errno.ENOENT):
        return DataError(
            "UNREADABLE_FILE",
            f"table {table}: {path} cannot be opened: {error}.",
            "check that the file is there and may be read.",
        )
    size = f"{path.stat().st_size:,} bytes"
    reason = f"table {table}: {path} ({size})"
    with contextlib.suppress(OSError), path.open("rb") as file:
        start = file.read(4)
        file.seek(-4, os.SEEK_END)
        end = file.read()
        if b"PARE" in (start, end):
            return DataError(
                "UNSUPPORTED_FILE",
                f"{reason} is encrypted. Expected: plain Parquet.",
                "write the file again without encryption.",
            )
        if start != PARQUET_MAGIC and end != PARQUET_MAGIC:
            return DataError(
                "UNREADABLE_FILE",
                f"{reason} is not a complete Parquet file: it begins with "
                f"{start!r}. Expected: {PARQUET_MAGIC!r} at its beginning and "
                "end.",
                "write the rows as Parquet; move a file that is not data, or "
                "rename it with a leading _ or .; copy a file again that was "
                "cut off or damaged.",
            )
    what = _unsupported(error, metadata)
    if what:
        return DataError(
            "UNSUPPORTED_FILE",
            f"{reason} needs a newer pyarrow than {pa.__version__}, for "
            f"{what}: {error}.",
            "write the file again without that, or install a newer pyarrow.",
        )
    return DataError(
        "UNREADABLE_FILE",
        f"{reason} is not a complete Parquet file: {error}.",
        "the file was cut off or damaged; copy or download it again.",
    )


def _unsupported(error: Exception, metadata: pq.FileMetaData | None) -> str:
    """Returns what this pyarrow does not support; empty for a damaged file."""
    text = str(error)
    if metadata is None:
        known = "LogicalType" in text
        return "the type of a column, such as float16" if known else ""
    if isinstance(error, pa.ArrowNotImplementedError):
        return "a compression or encoding"
    new: dict[str, str] = {}
    for group in range(metadata.num_row_groups):
        of_group = metadata.row_group(group)
        for column in map(of_group.column, range(of_group.num_columns)):
            for encoding in set(column.encodings) - _OLD_ENCODINGS:
                if encoding in text:
                    new[column.path_in_schema] = encoding
    return ", ".join(
        f"encoding {encoding} of column {name}"
        for name, encoding in new.items()
    )
