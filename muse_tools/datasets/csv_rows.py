"""Reads rows of CSV files in batches of bounded memory."""

from __future__ import annotations

import csv
import gzip
import io
import pathlib
import re
from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.csv

from muse_tools.datasets import casting, moments
from muse_tools.datasets.errors import DataError

BLOCK_BYTES = 16 << 20
_NULLS = ["\\N", "None", *pyarrow.csv.ConvertOptions().null_values]
_DELIMITERS = ",;\t|"
csv.field_size_limit(2**31 - 1)  # A history may be one value.


def read(
    path: pathlib.Path, types: Mapping[str, pa.DataType | None]
) -> Iterator[pa.RecordBatch]:
    """Streams a file, see `text_tables.read`.

    The delimiter (comma, semicolon, tab or bar) is recognized by the header.
    Declared texts stay texts even if they look like numbers.
    """
    delimiter, names = _header(path)
    _check_quotes(path, delimiter)
    wanted = [name for name in names if name in types]
    chosen: dict[str, pa.DataType] = {}
    try:
        if wanted:
            seen = _open(path, delimiter, wanted, {}).schema
            for field in seen:
                chosen[field.name] = _type_of(types[field.name], field.type)
        asked = {n: moments.asked(kind) for n, kind in chosen.items()}
        schema = pa.schema((n, chosen.get(n, pa.null())) for n in names)
        yield pa.RecordBatch.from_arrays(
            [pa.array([], field.type) for field in schema], schema=schema
        )
        for batch in _open(path, delimiter, wanted, asked) if wanted else ():
            columns = [
                moments.read(batch[field.name], field.type, _NULLS)
                if field.name in chosen
                else pa.nulls(batch.num_rows)
                for field in schema
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)
    except pa.ArrowInvalid as error:
        raise _diagnosis(path, delimiter, chosen, error) from error


def sample(path: pathlib.Path, rows: int) -> tuple[pa.Table, bool]:
    """Returns the first rows with inferred types, and whether they are all."""
    delimiter, names = _header(path)
    reader = _open(path, delimiter, names, {})
    if any(pa.types.is_binary(field.type) for field in reader.schema):
        raise pa.ArrowInvalid("it is not UTF-8")
    first = next(iter(reader), None)
    if first is None:
        return reader.schema.empty_table(), True
    more = next(iter(reader), None) is not None or first.num_rows > rows
    return pa.Table.from_batches([first.slice(0, rows)]), not more


def _type_of(declared: pa.DataType | None, seen: pa.DataType) -> pa.DataType:
    """Returns the type to read a column as, given that of its first rows."""
    types = pa.types
    if declared is None or types.is_timestamp(declared):
        if declared and types.is_string(seen) or types.is_temporal(seen):
            return declared or seen
        return pa.int64() if types.is_null(seen) else seen
    if casting.is_list(declared):
        return pa.string()
    # pandas writes whole numbers as 1.0 if some are missing.
    whole = types.is_integer(declared) and types.is_floating(seen)
    return pa.float64() if whole else declared


def _open(
    path: pathlib.Path,
    delimiter: str,
    names: list[str],
    types: Mapping[str, pa.DataType],
) -> pyarrow.csv.CSVStreamingReader:
    zipped = path.suffix.lower() == ".gz"
    return pyarrow.csv.open_csv(
        pa.input_stream(str(path), compression="gzip" if zipped else None),
        read_options=pyarrow.csv.ReadOptions(block_size=BLOCK_BYTES),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=delimiter, newlines_in_values=True
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            include_columns=names, column_types=types, null_values=_NULLS
        ),
    )


def open_text(path: pathlib.Path) -> io.TextIOWrapper:
    """Opens a file of texts, zipped or not."""
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    return opened(path, "rt", encoding="utf-8-sig", newline="")


def _check_quotes(path: pathlib.Path, delimiter: str) -> None:
    """Raises `DataError` for a quote that would join several lines to one."""
    with open_text(path) as file:
        if not any('"' in line for line in file):
            return
        file.seek(0)
        rows = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            for _ in rows:
                pass
        except csv.Error as error:
            raise DataError(
                "UNREADABLE_ROW",
                f"{path}: line {rows.line_num}: {error}. A value that begins "
                'with " ends with the next one.',
                'write " twice within a value, and quote the whole value.',
            ) from error


def _header(path: pathlib.Path) -> tuple[str, list[str]]:
    """Returns the delimiter and the names of the columns."""
    with open_text(path) as file:
        line = file.readline()
    if not line.strip():
        raise DataError(
            "EMPTY_TABLE",
            f"{path}: no header. Expected: the names of the columns first.",
            "write the file again, with its header.",
        )
    delimiter = max(_DELIMITERS, key=line.count)
    names = next(csv.reader([line], delimiter=delimiter))
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            "DUPLICATE_COLUMN",
            f"{path}: line 1 names column {twice[0]} more than once.",
            "give each column its own name.",
        )
    return delimiter, names


def _diagnosis(
    path: pathlib.Path,
    delimiter: str,
    types: Mapping[str, pa.DataType],
    error: Exception,
) -> DataError:
    """Returns an error that names the line of the unreadable value."""
    reason = str(error)
    found = re.search("(?:value|string:) '(.*)'", reason, re.DOTALL)
    value = found[1] if found else ""
    with open_text(path) as file:
        rows = csv.reader(file, delimiter=delimiter)
        header = next(rows)
        for row in rows:
            if row and len(row) != len(header):
                return DataError(
                    "UNREADABLE_ROW",
                    f"{path}: line {rows.line_num} has {len(row)} values. "
                    f"Expected: {len(header)}, as in the header.",
                    "correct the line; quote values that contain a "
                    f"{delimiter!r}.",
                )
            for name, text in zip(header, row, strict=False):
                kind = types.get(name, pa.string())
                if value and text == value and not moments.fits(text, kind):
                    return DataError(
                        "UNREADABLE_ROW",
                        f"{path}: line {rows.line_num}, column {name}: "
                        f"{text!r}. Expected: {moments.expected(kind)}.",
                        "correct the value, leave it empty or declare another "
                        "type for the column.",
                    )
    return DataError(
        "UNREADABLE_ROW",
        f"{path}: {reason}.",
        "correct the file, or write it as Parquet.",
    )
