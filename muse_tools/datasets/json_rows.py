"""Reads rows of JSON lines in batches of bounded memory."""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.json

from muse_tools.datasets import casting, moments
from muse_tools.datasets.errors import DataError

BLOCK_BYTES = 16 << 20


def read(
    path: pathlib.Path, types: Mapping[str, pa.DataType | None]
) -> Iterator[pa.RecordBatch]:
    """Streams a file, see `text_tables.read`.

    The columns are those that occur in the first rows, about 16 MB.
    """
    blocks = _blocks(path)
    first = next(blocks, None)
    if first is None:
        raise DataError(
            "EMPTY_TABLE",
            f"{path}: no rows. Expected: at least one.",
            "write the file again with its rows.",
        )
    seen = _kinds(path, *first)
    written = {
        name: _type_of(types[name], kinds)
        for name, kinds in seen.items()
        if name in types
    }
    asked = pa.schema((n, moments.asked(kind)) for n, kind in written.items())
    schema = pa.schema((n, written.get(n, pa.null())) for n in seen)
    yield pa.RecordBatch.from_arrays(
        [pa.array([], field.type) for field in schema], schema=schema
    )
    for data, line in itertools.chain([first], blocks):
        rows = _parse(path, data, line, asked)
        columns = [
            _column(path, line, rows, field)
            if field.name in asked.names
            else pa.nulls(len(rows))
            for field in schema
        ]
        table = pa.Table.from_arrays(columns, schema=schema)
        yield from table.combine_chunks().to_batches()


def sample(path: pathlib.Path, rows: int) -> tuple[pa.Table, bool]:
    """Returns the first rows with inferred types, and whether they are all."""
    blocks = _blocks(path)
    data, line = next(blocks, (b"", 1))
    lines = data.splitlines()
    found = [_values(path, line + i, t) for i, t in enumerate(lines[:rows])]
    names = dict.fromkeys(name for one in found for name in one)
    columns = {}
    for name in names:
        values = [one.get(name) for one in found]
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowException, TypeError, ValueError):
            columns[name] = pa.array([v and str(v) for v in values])
        for zone in (None, "UTC"):
            if pa.types.is_string(columns[name].type):
                with contextlib.suppress(pa.ArrowInvalid):
                    moment = pa.timestamp("us", zone)
                    columns[name] = columns[name].cast(moment)
    more = len(lines) > rows or next(blocks, None) is not None
    return pa.table(columns), not more


def _kinds(path: pathlib.Path, data: bytes, line: int) -> dict[str, set[type]]:
    """Returns the Python types of the values under each name."""
    found: dict[str, set[type]] = {}
    for row, text in enumerate(data.splitlines()):
        for name, value in _values(path, line + row, text).items():
            found.setdefault(name, set()).add(type(value))
    return found


def _type_of(declared: pa.DataType | None, kinds: set[type]) -> pa.DataType:
    """Returns the type to read a column as, given those of its first rows."""
    if declared is None or pa.types.is_timestamp(declared):
        if str in kinds:
            return declared or pa.string()
        return pa.bool_() if kinds <= {bool, type(None)} else pa.int64()
    if casting.is_list(declared) and str in kinds:
        return pa.string()
    # pandas writes whole numbers as 1.0 if some are missing.
    whole = pa.types.is_integer(declared) and float in kinds
    return pa.float64() if whole else declared


def _column(
    path: pathlib.Path, line: int, rows: pa.Table, field: pa.Field
) -> pa.ChunkedArray:
    column = rows[field.name]
    try:
        return moments.read(column, field.type)
    except pa.ArrowInvalid as error:
        for row, value in enumerate(column.to_pylist()):
            if value and not moments.fits(value, field.type):
                raise _wrong(
                    path,
                    line + row,
                    f"column {field.name}: {value!r}",
                    moments.expected(field.type),
                ) from error
        raise


def _wrong(
    path: pathlib.Path,
    line: int,
    what: str,
    expected: str = "one JSON object per line, with values of the declared "
    "types",
) -> DataError:
    return DataError(
        "UNREADABLE_ROW",
        f"{path}: line {line}, {what}. Expected: {expected}.",
        "correct the line, or declare another type for the column.",
    )


def _parse(
    path: pathlib.Path, data: bytes, line: int, schema: pa.Schema
) -> pa.Table:
    """Parses lines; the first one is line number `line` of the file."""
    how = pyarrow.json.ParseOptions(
        explicit_schema=schema, unexpected_field_behavior="ignore"
    )
    read = pyarrow.json.ReadOptions(block_size=len(data) + 1)
    try:
        return pyarrow.json.read_json(io.BytesIO(data), read, how)
    except pa.ArrowInvalid as error:
        for row, text in enumerate(data.splitlines()):
            values = _values(path, line + row, text)
            for field in schema:
                value = values.get(field.name)
                try:
                    pa.array([value], field.type)
                except (pa.ArrowException, TypeError, ValueError) as wrong:
                    what = f"column {field.name} ({field.type}): {value!r}"
                    raise _wrong(path, line + row, what) from wrong
        raise _wrong(path, line, f"or a later one: {error}") from error


def _values(path: pathlib.Path, line: int, text: bytes) -> dict[str, Any]:
    try:
        values = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise _wrong(path, line, f"not JSON: {error}") from error
    if not isinstance(values, dict):
        raise _wrong(path, line, f"received {text[:80]!r}")
    return values


def _blocks(path: pathlib.Path) -> Iterator[tuple[bytes, int]]:
    """Yields about 16 MB of whole lines and the number of the first line."""
    line = 1
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    with opened(path, "rb") as file:
        while data := file.read(BLOCK_BYTES):
            data += file.readline()
            if data.strip():
                yield data.removeprefix(b"\xef\xbb\xbf"), line
            line += data.count(b"\n")
