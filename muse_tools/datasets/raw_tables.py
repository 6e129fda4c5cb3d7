"""Finds, checks and reads the raw tables.

A data set is a directory (or its ``raw/`` subdirectory) with the tables that
follow from its declaration (`schemas.ranking_schema`). Each is one file
``NAME.parquet``, shards ``NAME-*.parquet``, or a folder ``NAME/``
(`parquet_files`); CSV and JSON lines become Parquet first (`text_tables`). No
function reads a whole table, because the published user features are 44.6 GB in
seven row groups. Columns get the names that the code uses.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from muse_tools.datasets import casting, decoding, text_tables
from muse_tools.datasets.errors import DataError
from muse_tools.datasets.object_paths import path_of
from muse_tools.datasets.parquet_files import (
    data_files,
    find_files,
    iter_batches,
    listing,
    open_file,
    rows_per_batch,
    schema_of,
)
from muse_tools.datasets.schema_checks import (
    empty_table,
    schema_problems,
    wrong_type,
)
from muse_tools.datasets.table_schemas import (  # noqa: F401
    ACTION,
    BEHAVIOR_ITEM_IDS,
    EMBEDDING_DIM,
    EMBEDDINGS,
    EVENTS,
    IMPRESSIONS,
    ITEM_FEATURES,
    ITEM_ID,
    KNOWN_TIME,
    LABEL,
    REQUEST_ID,
    SCL_EMBEDDING,
    SPLITS,
    TEST_SAMPLES,
    TEST_USER_FEATURES,
    TIME,
    TRAIN_SAMPLES,
    TRAIN_USER_FEATURES,
    USER_ID,
    USERS,
    WEIGHT,
    column_of,
    describe_column,
    file_names,
    in_files,
    is_label,
    plain,
    same_ids,
    schemas,
)
from schemas import ranking_schema
from schemas.ranking_schema import RankingSchema, preset

TABLES = tuple(schemas(preset("taobao_mm")))
"""Names of the tables of a data set with histories."""


@dataclasses.dataclass(frozen=True)
class RawTable:
    """One raw table: its files and its expected schema."""

    name: str
    paths: tuple[pathlib.Path, ...]
    schema: pa.Schema
    sources: tuple[pathlib.Path, ...] = ()
    """Files that `paths` were converted from; equal to them for Parquet."""

    def problems(self) -> list[DataError]:
        """Checks the footers of all files; returns the problems found."""
        found: list[DataError] = []
        for path in self.paths:
            label = self._label(path)
            try:
                with open_file(self.name, path) as file:
                    found += schema_problems(
                        schema_of(file, path), self.schema, label
                    )
            except DataError as error:
                found.append(error)
        return found

    def check(self) -> None:
        """Checks the footers of all files; raises the first `DataError`."""
        for problem in self.problems():
            raise problem
        if self.num_rows() == 0:
            raise empty_table(self.name)

    def file_schema(self) -> pa.Schema:
        """Returns the columns of all files; the first file decides the type."""
        fields: dict[str, pa.Field] = {}
        for path in self.paths:
            with open_file(self.name, path) as file:
                for field in schema_of(file, path):
                    fields.setdefault(field.name, field)
        return pa.schema(fields.values())

    def num_rows(self) -> int:
        """Returns the number of rows, read from the footers."""
        rows = 0
        for path in self.paths:
            with open_file(self.name, path) as file:
                rows += file.metadata.num_rows
        return rows

    def num_bytes(self) -> int:
        """Returns the size of all files in bytes."""
        return sum(path.stat().st_size for path in self.paths)

    def iter_batches(
        self,
        columns: Sequence[str] | None = None,
        batch_rows: int | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Streams the table in batches of `batch_rows`, or of about 32 MB.

        Columns have the order and the exact types of the schema.

        Raises:
            DataError: if a file cannot be read or has a wrong column.
        """
        for path in self.paths:
            with open_file(self.name, path) as file:
                yield from self.read(file, path, columns, None, batch_rows)

    def read(
        self,
        file: pq.ParquetFile,
        path: pathlib.Path,
        columns: Sequence[str] | None = None,
        row_groups: Sequence[int] | None = None,
        batch_rows: int | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Streams row groups of an open file, see `iter_batches`."""
        wanted = self.schema.names if columns is None else columns
        if unknown := set(wanted) - set(self.schema.names):
            raise ValueError(
                f"columns: expected names among {self.schema.names}. "
                f"Received: {sorted(unknown)}"
            )
        schema = pa.schema([f for f in self.schema if f.name in wanted])
        label = self._label(path)
        for problem in schema_problems(schema_of(file, path), schema, label):
            raise problem
        rows = batch_rows or rows_per_batch(file.metadata, in_files(schema))
        yield from read_rows(file, path, schema, rows, row_groups, label)

    def stored(self, field: pa.Field) -> Iterator[pa.Array]:
        """Streams a column as it is in the files, 4,096 rows at a time."""
        name = column_of(field)
        for path in self.paths:
            with open_file(self.name, path) as file:
                for batch in iter_batches(file, path, [name], 4096):
                    yield batch[name]

    def text_of(self, field: pa.Field, value: int) -> str:
        """Returns the text that is read as a value, or else the number."""
        for texts in self.stored(field):
            row = pc.index(decoding.decode(texts, field), value).as_py()
            if row >= 0:
                return reprlib.repr(texts[row].as_py())
        return str(value)

    def _label(self, path: pathlib.Path) -> str:
        if len(self.paths) == 1:
            return self.name
        return f"{self.name} ({path.name})"


def read_rows(
    file: pq.ParquetFile,
    path: pathlib.Path,
    schema: pa.Schema,
    batch_rows: int,
    row_groups: Sequence[int] | None,
    table: str,
) -> Iterator[pa.RecordBatch]:
    """Streams the columns of a schema from an open file."""
    columns = in_files(schema).names
    for batch in iter_batches(file, path, columns, batch_rows, row_groups):
        arrays = []
        for column, field in zip(columns, schema, strict=True):
            array = batch[column]
            try:
                arrays.append(decoding.decode(array, field))
            except ValueError as error:
                raise wrong_type(
                    table, field, array.type, str(error)
                ) from error
        named = pa.RecordBatch.from_arrays(arrays, schema.names)
        yield conform(named, schema, table)


def conform(
    batch: pa.RecordBatch, schema: pa.Schema, table: str = ""
) -> pa.RecordBatch:
    """Selects columns in the order of a schema and casts them to its types."""
    arrays = []
    for field in schema:
        array = batch[field.name]
        received = array.type
        if field.name == SCL_EMBEDDING and pa.types.is_floating(
            casting.leaf(received)
        ):
            array = casting.quantize(array)
        try:
            arrays.append(casting.cast(array, field.type))
        except ValueError as error:
            raise wrong_type(table, field, received, str(error)) from error
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


@dataclasses.dataclass(frozen=True)
class RawTables:
    """The raw tables found in a directory, and their declaration."""

    root: pathlib.Path
    tables: Mapping[str, RawTable]
    declared: RankingSchema

    @classmethod
    def open(
        cls,
        directory: str | os.PathLike[str],
        require: Iterable[str] = (),
        declared: RankingSchema | None = None,
    ) -> RawTables:
        """Finds the tables in `directory` or `directory`/raw.

        Call `check` to see whether their columns are right. Unless it is given,
        the declaration is ``schema.yaml`` beside the tables, or else Taobao-MM.

        Raises:
            DataError: if there are no tables, or one of `require` is missing.
        """
        base = path_of(directory)
        if not base.is_dir():
            raise DataError(
                "NO_DIRECTORY",
                f"{base} is not a directory.",
                "give the directory that holds the raw tables or raw/, or make "
                "one: muse data complete-journey --out DIR.",
            )
        for root in (base, base / "raw"):
            tables = {}
            known = declared or ranking_schema.beside(root, base)
            files = file_names(known)
            for name, schema in schemas(known).items():
                found = find_files(root, files[name], text_tables.ENDINGS)
                if found:
                    same = [
                        s
                        for n, s in schemas(known).items()
                        if files[n] == files[name]
                    ]
                    types = text_tables.column_types(same)
                    if known.text and name == ITEM_FEATURES:
                        types.setdefault(known.text, pa.string())
                    paths = text_tables.as_parquet(root, found, types)
                    tables[name] = RawTable(name, paths, schema, found)
            if tables:
                break
        else:
            received = listing(root if root.is_dir() else base)
            first = ""
            if known is preset("taobao_mm") and received != "nothing":
                first = f"declare your own files: `muse data init {base}`; or "
            raise DataError(
                "NO_TABLES",
                f"{base} holds none of the raw tables, nor does its raw/. "
                f"Expected: {', '.join(files.values())}. Received: "
                f"{received}.",
                f"{first}write {next(iter(files.values()))}.parquet and the "
                "others there (docs/data.md has their columns), or "
                "make some with `muse data complete-journey --out DIR`.",
            )
        opened = cls(root, tables, known)
        for name in require:
            opened[name]
        return opened

    def __getitem__(self, name: str) -> RawTable:
        """Returns a table; raises `DataError` ``MISSING_TABLE``."""
        if name not in self.tables:
            file = file_names(self.declared).get(name, name)
            raise DataError(
                "MISSING_TABLE",
                f"table {name}: not found in {self.root}. Received: "
                f"{listing(self.root)}.",
                f"put {file}.parquet, {file}-*.parquet or a folder {file}/ "
                "with such files there, or .csv or .jsonl instead.",
            )
        return self.tables[name]

    def __contains__(self, name: object) -> bool:
        return name in self.tables

    def with_table(
        self, name: str, folder: str | os.PathLike[str]
    ) -> RawTables:
        """Returns a copy in which one table is read from another folder."""
        paths = data_files(pathlib.Path(folder))
        if not paths:
            raise DataError(
                "MISSING_TABLE",
                f"table {name}: no Parquet file in {folder}. Received: "
                f"{listing(pathlib.Path(folder))}.",
                "run the component that writes it again.",
            )
        table = RawTable(name, paths, plain(schemas(self.declared)[name]))
        tables = {**self.tables, name: table}
        return dataclasses.replace(self, tables=tables)

    def check(self, vectors: bool = True) -> None:
        """Checks that all tables exist, have their columns and are not empty.

        The table of item vectors is checked only if `vectors` is true.
        """
        for name in schemas(self.declared):
            if vectors or name != EMBEDDINGS:
                self[name].check()
