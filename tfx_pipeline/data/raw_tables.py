"""The raw Taobao-MM tables: schemas, where they lie, reading, writing.

A data set is a directory (or its ``raw/`` subdirectory) with six Parquet
tables. Each table is one file ``NAME.parquet``, shards
``NAME-*.parquet``, or a folder ``NAME/`` of Parquet files. User features of
the published set are 44.6 GB in seven row groups, so everything here
streams: no function reads a whole table.

Source of names and types: the Taobao-MM files as published.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from tfx_pipeline.data.errors import DataError

EMBEDDING_DIM = 128
"""Number of int8 codes of one item vector."""

LABEL = "label_0"
USER_ID = "129_1"
USER_PROFILE = ("130_1", "130_2", "130_3", "130_4", "130_5")
BEHAVIOR_ITEM_IDS = "150_2_180"
BEHAVIOR_CATEGORY_IDS = "151_2_180"
ITEM_ID = "205"
ITEM_CATEGORY = "206"
ITEM_CITY = "213"
ITEM_PROVINCE = "214"
SCL_EMBEDDING = "205_c"

NAME_OF_CODE: Mapping[str, str] = {
    LABEL: "click",
    USER_ID: "user_id",
    **{code: f"user_profile_{i + 1}" for i, code in enumerate(USER_PROFILE)},
    BEHAVIOR_ITEM_IDS: "behavior_item_ids",
    BEHAVIOR_CATEGORY_IDS: "behavior_category_ids",
    ITEM_ID: "item_id",
    ITEM_CATEGORY: "item_category",
    ITEM_CITY: "item_city",
    ITEM_PROVINCE: "item_province",
    SCL_EMBEDDING: "scl_embedding",
}
"""Published column code to the name this project uses."""

CODE_OF_NAME: Mapping[str, str] = {v: k for k, v in NAME_OF_CODE.items()}
"""The inverse of `NAME_OF_CODE`."""


def _list_of(value_type: pa.DataType) -> pa.DataType:
    return pa.list_(pa.field("element", value_type))


_SAMPLES = pa.schema(
    [
        (LABEL, _list_of(pa.int8())),
        (USER_ID, pa.int64()),
        (ITEM_ID, pa.int64()),
    ]
)
_USER_FEATURES = pa.schema(
    [
        (USER_ID, pa.int64()),
        *((code, pa.int64()) for code in USER_PROFILE),
        (BEHAVIOR_ITEM_IDS, _list_of(pa.int64())),
        (BEHAVIOR_CATEGORY_IDS, _list_of(pa.int64())),
    ]
)
_ITEM_FEATURES = pa.schema(
    [
        (ITEM_ID, pa.int64()),
        (ITEM_CATEGORY, pa.int64()),
        (ITEM_CITY, pa.int64()),
        (ITEM_PROVINCE, pa.int64()),
    ]
)
_EMBEDDINGS = pa.schema(
    [(ITEM_ID, pa.int64()), (SCL_EMBEDDING, _list_of(pa.int8()))]
)

TRAIN_SAMPLES = "train_samples"
TEST_SAMPLES = "test_samples"
TRAIN_USER_FEATURES = "train_user_features"
TEST_USER_FEATURES = "test_user_features"
ITEM_FEATURES = "item_features"
EMBEDDINGS = "scl_embedding_int8_p90"

SCHEMAS: Mapping[str, pa.Schema] = {
    TRAIN_SAMPLES: _SAMPLES,
    TEST_SAMPLES: _SAMPLES,
    TRAIN_USER_FEATURES: _USER_FEATURES,
    TEST_USER_FEATURES: _USER_FEATURES,
    ITEM_FEATURES: _ITEM_FEATURES,
    EMBEDDINGS: _EMBEDDINGS,
}
"""Table name to its Arrow schema."""

SPLITS = ("train", "test")

_TARGET_BATCH_BYTES = 32 << 20
_MAX_BATCH_ROWS = 1 << 17
_READ_BUFFER_BYTES = 4 << 20


def describe_column(code: str) -> str:
    """Returns a column code with this project's name: ``205 (item_id)``."""
    name = NAME_OF_CODE.get(code)
    return f"{code} ({name})" if name else code


def describe_type(data_type: pa.DataType) -> str:
    """Returns a type as DATA.md spells it, e.g. ``list<int8>``."""
    if _is_list(data_type):
        return f"list<{describe_type(data_type.value_type)}>"
    return str(data_type)


def _is_list(data_type: pa.DataType) -> bool:
    return (
        pa.types.is_list(data_type)
        or pa.types.is_large_list(data_type)
        or pa.types.is_fixed_size_list(data_type)
    )


def _same_type(expected: pa.DataType, received: pa.DataType) -> bool:
    """Compares types; the name and width of a list's offsets do not count.

    Writers name a list's child ``item`` or ``element`` and may use 64-bit
    offsets; in Parquet all of them are the same LIST.
    """
    if _is_list(expected):
        return _is_list(received) and _same_type(
            expected.value_type, received.value_type
        )
    return expected.equals(received)


def schema_problems(
    schema: pa.Schema, expected: pa.Schema, table: str
) -> list[DataError]:
    """Compares a table's schema with what it has to be.

    Args:
        schema: What was found. Extra columns and any order are fine.
        expected: One of `SCHEMAS`, or a schema of the joined form.
        table: Table (or file) name for the messages.

    Returns:
        One `DataError` per problem, codes ``MISSING_COLUMN``,
        ``DUPLICATE_COLUMN`` or ``WRONG_TYPE``; an empty list if it fits.
    """
    problems = []
    for field in expected:
        found = schema.get_all_field_indices(field.name)
        column = describe_column(field.name)
        wanted = describe_type(field.type)
        if not found:
            have = ", ".join(schema.names) or "none"
            problems.append(
                DataError(
                    "MISSING_COLUMN",
                    f"table {table}: column {column} is missing. "
                    f"Expected: {wanted}. Received columns: {have}.",
                    f"write column {field.name} as {wanted} into {table}; "
                    "columns are named by their published codes.",
                )
            )
        elif len(found) > 1:
            problems.append(
                DataError(
                    "DUPLICATE_COLUMN",
                    f"table {table}: column {column} occurs {len(found)} "
                    "times. Expected: once.",
                    f"keep one column {field.name} in {table}.",
                )
            )
        elif not _same_type(field.type, schema.field(found[0]).type):
            received = describe_type(schema.field(found[0]).type)
            problems.append(
                DataError(
                    "WRONG_TYPE",
                    f"table {table}: column {column} has the wrong type. "
                    f"Expected: {wanted}. Received: {received}.",
                    f"cast column {field.name} of {table} to {wanted} and "
                    "write the table again.",
                )
            )
    return problems


def _unreadable(table: str, path: pathlib.Path, error: Exception) -> DataError:
    try:
        size = f"{path.stat().st_size:,} bytes"
    except OSError:
        size = "not readable"
    return DataError(
        "UNREADABLE_FILE",
        f"table {table}: {path} ({size}) is not a complete Parquet file: "
        f"{error}.",
        "the file was cut off or damaged; copy or download it again.",
    )


@contextlib.contextmanager
def _parquet_file(table: str, path: pathlib.Path) -> Iterator[pq.ParquetFile]:
    """Opens a file; every Arrow or I/O error inside names table and file."""
    try:
        # A buffer makes column chunks stream: without it a whole chunk,
        # gigabytes of histories, is read at once.
        with pq.ParquetFile(path, buffer_size=_READ_BUFFER_BYTES) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(table, path, error) from error


def _leaf_bytes(data_type: pa.DataType) -> int:
    if _is_list(data_type):
        return _leaf_bytes(data_type.value_type)
    try:
        return max(1, data_type.bit_width // 8)
    except ValueError:
        return 16


def decoded_bytes(
    metadata: pq.FileMetaData, schema: pa.Schema
) -> Iterator[tuple[int, int]]:
    """Reads off a footer how large each row group is in memory.

    Args:
        metadata: Footer of a Parquet file.
        schema: Columns that count.

    Yields:
        (rows, bytes of the columns' values) of each row group.
    """
    width = {f.name: _leaf_bytes(f.type) for f in schema}
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        columns = (group.column(i) for i in range(group.num_columns))
        yield (
            group.num_rows,
            sum(
                column.num_values * width[name]
                for column in columns
                if (name := column.path_in_schema.split(".")[0]) in width
            ),
        )


def rows_per_batch(metadata: pq.FileMetaData, schema: pa.Schema) -> int:
    """Returns how many rows of a file decode to about 32 MB."""
    widest = max(
        (size / rows for rows, size in decoded_bytes(metadata, schema) if rows),
        default=1.0,
    )
    fitting = int(_TARGET_BATCH_BYTES // max(1.0, widest))
    return min(_MAX_BATCH_ROWS, max(1, fitting))


@dataclasses.dataclass(frozen=True)
class RawTable:
    """One raw table: its files and the schema that it has to have.

    Attributes:
        name: Table name, e.g. ``train_samples``.
        paths: Its Parquet files, in reading order.
        schema: Expected Arrow schema.
    """

    name: str
    paths: tuple[pathlib.Path, ...]
    schema: pa.Schema

    def problems(self) -> list[DataError]:
        """Checks every file's footer; returns all problems found."""
        found: list[DataError] = []
        for path in self.paths:
            label = self._label(path)
            try:
                with _parquet_file(self.name, path) as file:
                    found += schema_problems(
                        file.schema_arrow, self.schema, label
                    )
            except DataError as error:
                found.append(error)
        return found

    def check(self) -> None:
        """Checks every file's footer.

        Raises:
            DataError: ``MISSING_COLUMN``, ``WRONG_TYPE``,
                ``DUPLICATE_COLUMN`` or ``UNREADABLE_FILE`` for the first
                problem, ``EMPTY_TABLE`` if there is no row at all.
        """
        for problem in self.problems():
            raise problem
        if self.num_rows() == 0:
            raise empty_table(self.name)

    def file_schema(self) -> pa.Schema:
        """Returns the schema of the first file, as it was written."""
        with _parquet_file(self.name, self.paths[0]) as file:
            return file.schema_arrow.remove_metadata()

    def num_rows(self) -> int:
        """Returns the number of rows, read from the footers."""
        rows = 0
        for path in self.paths:
            with _parquet_file(self.name, path) as file:
                rows += file.metadata.num_rows
        return rows

    def num_bytes(self) -> int:
        """Returns the bytes of all files."""
        return sum(path.stat().st_size for path in self.paths)

    def iter_batches(
        self,
        columns: Sequence[str] | None = None,
        batch_rows: int | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Streams the table; memory stays bounded whatever its size.

        Args:
            columns: Column codes to read; all of the schema by default.
            batch_rows: Rows per batch. By default as many as decode to
                about 32 MB, so longer histories mean smaller batches.

        Yields:
            Record batches with the requested columns in schema order, cast
            to the schema's exact types. Never an empty batch.

        Raises:
            DataError: A schema problem or an unreadable file.
        """
        schema = self.schema
        if columns is not None:
            unknown = [c for c in columns if c not in schema.names]
            if unknown:
                raise ValueError(
                    f"columns: expected codes among {schema.names}. "
                    f"Received: {unknown}"
                )
            schema = pa.schema([f for f in schema if f.name in set(columns)])
        for path in self.paths:
            with _parquet_file(self.name, path) as file:
                for problem in schema_problems(
                    file.schema_arrow, schema, self._label(path)
                ):
                    raise problem
                rows = batch_rows or rows_per_batch(file.metadata, schema)
                batches = file.iter_batches(rows, columns=list(schema.names))
                for batch in batches:
                    if batch.num_rows:
                        yield conform(batch, schema)

    def _label(self, path: pathlib.Path) -> str:
        if len(self.paths) == 1:
            return self.name
        return f"{self.name} ({path.name})"


def empty_table(name: str) -> DataError:
    """Returns the error of a table without rows."""
    return DataError(
        "EMPTY_TABLE",
        f"table {name}: no rows. Expected: at least one.",
        f"write {name} again, or leave the table out if it is not needed.",
    )


def conform(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Selects and casts a batch's columns to a schema, in its order."""
    arrays = []
    for field in schema:
        array = batch.column(batch.schema.get_field_index(field.name))
        if not array.type.equals(field.type) or (
            _is_list(field.type)
            and array.type.value_field.name != field.type.value_field.name
        ):
            array = _cast(array, field.type)
        arrays.append(array)
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _cast(array: pa.Array, data_type: pa.DataType) -> pa.Array:
    if pa.types.is_list(array.type) and _is_list(data_type):
        # Same bytes under another child name; a cast would copy.
        return pa.Array.from_buffers(
            data_type,
            len(array),
            array.buffers()[:2],
            offset=array.offset,
            children=[array.values],
        )
    return array.cast(data_type)


def find_files(root: pathlib.Path, name: str) -> tuple[pathlib.Path, ...]:
    """Returns the files of table `name` in `root`, sorted; maybe none.

    Raises:
        DataError: ``AMBIGUOUS_TABLE`` when there are several of the forms
            ``NAME.parquet``, ``NAME-*.parquet`` and ``NAME/``.
    """
    forms: list[tuple[str, tuple[pathlib.Path, ...]]] = []
    single = root / f"{name}.parquet"
    if single.is_file():
        forms.append((single.name, (single,)))
    if single.is_dir():
        forms.append((f"{single.name}/", tuple(_parquet_in(single))))
    shards = tuple(sorted(p for p in root.glob(f"{name}-*.parquet")))
    if shards:
        forms.append((f"{name}-*.parquet", shards))
    if (root / name).is_dir() and (inside := _parquet_in(root / name)):
        forms.append((f"{name}/", tuple(inside)))
    if len(forms) > 1:
        raise DataError(
            "AMBIGUOUS_TABLE",
            f"table {name}: found as {' and '.join(f for f, _ in forms)} "
            f"in {root}. Expected: one form.",
            "remove or move away the copies that should not be read.",
        )
    return forms[0][1] if forms else ()


def _parquet_in(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(
        p for p in folder.glob("*.parquet") if not p.name.startswith((".", "_"))
    )


@dataclasses.dataclass(frozen=True)
class RawTables:
    """The raw tables found in a directory.

    Attributes:
        root: The directory that holds the tables (``DIR`` or ``DIR/raw``).
        tables: Table name to table, only those that exist.
    """

    root: pathlib.Path
    tables: Mapping[str, RawTable]

    @classmethod
    def open(
        cls,
        directory: str | os.PathLike[str],
        require: Iterable[str] = (),
    ) -> RawTables:
        """Finds the tables in `directory` or `directory`/raw.

        Only names are looked at; call `check` for the schemas.

        Args:
            directory: A data set.
            require: Names of tables that must be there.

        Raises:
            DataError: ``NO_DIRECTORY``, ``NO_TABLES``, ``MISSING_TABLE`` or
                ``AMBIGUOUS_TABLE``.
        """
        base = pathlib.Path(directory)
        if not base.is_dir():
            raise DataError(
                "NO_DIRECTORY",
                f"{base} is not a directory.",
                "give the directory that holds the raw tables or raw/.",
            )
        for root in (base, base / "raw"):
            tables = {}
            for name, schema in SCHEMAS.items():
                if paths := find_files(root, name):
                    tables[name] = RawTable(name, paths, schema)
            if tables:
                break
        else:
            raise DataError(
                "NO_TABLES",
                f"{base} holds none of the raw tables, and {base / 'raw'} "
                "neither.",
                f"expected files such as {TRAIN_SAMPLES}.parquet; make some "
                "with `muse data complete-journey --out DIR`.",
            )
        found = cls(root, tables)
        for name in require:
            found[name]
        return found

    def __getitem__(self, name: str) -> RawTable:
        """Returns a table; `DataError` ``MISSING_TABLE`` if not there."""
        if name not in self.tables:
            have = ", ".join(self.tables)
            raise DataError(
                "MISSING_TABLE",
                f"table {name}: not found in {self.root}. Received: {have}.",
                f"put {name}.parquet, {name}-*.parquet or a folder {name}/ "
                "there.",
            )
        return self.tables[name]

    def __contains__(self, name: object) -> bool:
        """Tells whether a table exists."""
        return name in self.tables

    def with_table(
        self, name: str, folder: str | os.PathLike[str]
    ) -> RawTables:
        """Returns the same tables, one of them read from another folder.

        Args:
            name: Table to replace or add, one of `SCHEMAS`.
            folder: Directory that holds the table's files, and no others.

        Raises:
            DataError: ``MISSING_TABLE`` when there is no Parquet file.
        """
        paths = tuple(sorted(_parquet_in(pathlib.Path(folder))))
        if not paths:
            raise DataError(
                "MISSING_TABLE",
                f"table {name}: no Parquet file in {folder}.",
                "run the component that writes it again.",
            )
        table = RawTable(name, paths, SCHEMAS[name])
        return RawTables(self.root, {**self.tables, name: table})

    def check(self, require: Iterable[str] = tuple(SCHEMAS)) -> None:
        """Checks presence, schema and non-emptiness of tables.

        Args:
            require: Names to check; all six by default.

        Raises:
            DataError: The first problem found.
        """
        for name in require:
            self[name].check()


class TableWriter:
    """Writes one Parquet file atomically: all of it or nothing.

    Rows go to a hidden temporary file next to the target, which replaces
    the target only when the ``with`` block ends without an error.

    Args:
        path: Target file. Missing parent directories are made.
        schema: Arrow schema of the rows.
        row_group_bytes: A row group is closed once its rows take about so
            many bytes in memory.

    Example:
        >>> with TableWriter("item_features.parquet", schema) as writer:
        ...     writer.write(batch)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        schema: pa.Schema,
        row_group_bytes: int = 64 << 20,
    ) -> None:
        """Prepares writing; see the class for the arguments."""
        self.path = pathlib.Path(path)
        self.schema = schema
        self.rows = 0
        self._row_group_bytes = row_group_bytes
        self._temporary = self.path.with_name(
            f".{self.path.name}.{os.getpid()}.tmp"
        )
        self._writer: pq.ParquetWriter | None = None
        self._pending: list[pa.RecordBatch] = []
        self._pending_bytes = 0

    def __enter__(self) -> TableWriter:
        """Opens the temporary file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = pq.ParquetWriter(
            self._temporary,
            self.schema,
            compression="snappy",
            use_compliant_nested_type=True,
        )
        return self

    def write(self, rows: pa.RecordBatch | pa.Table) -> None:
        """Appends rows; their columns are matched by name."""
        batches = rows.to_batches() if isinstance(rows, pa.Table) else [rows]
        for batch in batches:
            if not batch.num_rows:
                continue
            batch = conform(batch, self.schema)
            self._pending.append(batch)
            self._pending_bytes += batch.nbytes
            self.rows += batch.num_rows
            if self._pending_bytes >= self._row_group_bytes:
                self._flush()

    def _flush(self) -> None:
        if self._pending and self._writer is not None:
            table = pa.Table.from_batches(self._pending, self.schema)
            self._writer.write_table(table, row_group_size=table.num_rows)
            self._pending, self._pending_bytes = [], 0

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Moves the file into place, or removes it after an error."""
        try:
            if kind is None:
                self._flush()
            if self._writer is not None:
                self._writer.close()
            if kind is None:
                os.replace(self._temporary, self.path)
        finally:
            self._temporary.unlink(missing_ok=True)


def write_table(
    path: str | os.PathLike[str], rows: pa.Table | pa.RecordBatch
) -> None:
    """Writes one Parquet file atomically with the rows' own schema."""
    with TableWriter(path, rows.schema) as writer:
        writer.write(rows)
