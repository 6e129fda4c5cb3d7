"""The raw tables: schemas, where they lie, reading.

A data set is a directory (or its ``raw/`` subdirectory) with six Parquet
tables. Each table is one file ``NAME.parquet``, shards
``NAME-*.parquet``, or a folder ``NAME/`` (`parquet_files`). User features of
the published set are 44.6 GB in seven row groups, so everything here
streams: no function reads a whole table. A declaration
(`schemas.ranking_schema`) says what their columns are called; behind this
module they have the names that the code uses.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from muse_tools.datasets import casting, decoding
from muse_tools.datasets.arrow_lists import list_of
from muse_tools.datasets.errors import DataError
from muse_tools.datasets.parquet_files import (
    data_files,
    find_files,
    iter_batches,
    listing,
    open_file,
    rows_per_batch,
    schema_of,
)
from schemas import ranking_schema
from schemas.ranking_schema import RankingSchema

EMBEDDING_DIM = 128
"""Number of int8 codes of one item vector."""

USER_ID = "user_id"
ITEM_ID = "item_id"
LABEL = "click"
TIME, KNOWN_TIME = "time", "known_time"
REQUEST_ID = "request_id"
ACTION = "action"
BEHAVIOR_ITEM_IDS = "behavior_item_ids"
SCL_EMBEDDING = "item_vector"

TRAIN_SAMPLES = "train_samples"
TEST_SAMPLES = "test_samples"
TRAIN_USER_FEATURES = "train_user_features"
TEST_USER_FEATURES = "test_user_features"
ITEM_FEATURES = "item_features"
EMBEDDINGS = "scl_embedding_int8_p90"
IMPRESSIONS, EVENTS, USERS = "impressions", "events", "users"

SPLITS = ("train", "test")

# Columns of the search tables that hold item ids.
_SEARCHED_ITEMS = ("item_id", "purchased_item_id", "clicked_item_ids")
COLUMN, _SAME_IDS = b"column", b"same_ids"


@functools.cache
def schemas(declared: RankingSchema) -> Mapping[str, pa.Schema]:
    """Returns the Arrow schema of each table by its name.

    Fields have the names that the code uses; their metadata have the names of
    the columns in files, see `column_of`.
    """
    log, texts = declared.log, declared.texts()
    label = declared.label_names[LABEL]
    items, users = declared.tables["items"], declared.tables["users"]
    groups = {}
    for of_items, of_behaviors in (
        (ITEM_ID, BEHAVIOR_ITEM_IDS),
        *((f"item_{n}", f"behavior_{n}") for n in declared.features.behavior),
    ):
        same = [items[of_items], *filter(None, [users.get(of_behaviors)])]
        same += _SEARCHED_ITEMS if of_items == ITEM_ID else ()
        groups[of_items] = groups[of_behaviors] = same

    def field(table: str, name: str, column: str) -> pa.Field:
        metadata = {
            COLUMN: column,
            _SAME_IDS: "\n".join(groups.get(name, [column])),
        }
        if name in texts:
            metadata[decoding.TEXT] = texts[name]
        if name in (TIME, KNOWN_TIME) and log:
            metadata[decoding.TIME] = log.timezone
        if name == LABEL and not label.one_hot:
            least = label.at_least
            kind_of = decoding.FLAG if least is None else decoding.AT_LEAST
            metadata[kind_of] = str(least)
        kind = pa.string() if name == ACTION else pa.int64()
        if name == SCL_EMBEDDING or (name == LABEL and label.one_hot):
            kind = list_of(pa.int8())
        if name.startswith("behavior_") and table == "users":
            kind = list_of(pa.int64())
        return pa.field(name, kind, metadata=metadata)

    made = {
        table: pa.schema(
            field(table, name, column) for name, column in columns.items()
        )
        for table, columns in declared.tables.items()
    }
    both = (
        {IMPRESSIONS: made["samples"], EVENTS: made["events"]}
        if log
        else {
            TRAIN_SAMPLES: made["samples"],
            TEST_SAMPLES: made["samples"],
            TRAIN_USER_FEATURES: made["users"],
            TEST_USER_FEATURES: made["users"],
        }
    )
    if log and declared.features.user:
        both[USERS] = made["users"]
    return {**both, ITEM_FEATURES: made["items"], EMBEDDINGS: made["vectors"]}


def file_names(declared: RankingSchema) -> dict[str, str]:
    """Returns how the files of each table are called."""
    found = {name: name for name in schemas(declared)}
    if declared.log:
        found |= {ITEM_FEATURES: "items", EMBEDDINGS: "vectors"}
        own = {str(file): one for file, one in declared.log.tables.items()}
        return {name: own.get(file, file) for name, file in found.items()}
    return found


TABLES = tuple(schemas(ranking_schema.preset("taobao_mm")))
"""Names of the tables of a data set with histories."""

_NOT_PARQUET = "CSV and other files are not read: write them as Parquet"


_TYPE_HINTS = {
    LABEL: (
        "make {column} list<int8> of two: [1, 0] where the item was not "
        "clicked, [0, 1] where it was, that is [1 - c, c] for a click c."
    ),
    "plain label": (
        "write {column} as int64, 1 where the item was clicked, else 0; or "
        "declare label.at_least for scores, label.one_hot for lists [1 - c, c]."
    ),
    SCL_EMBEDDING: (
        f"make {{column}} a list of {EMBEDDING_DIM} floats or int8 codes "
        "for each item; floats become codes here. Do not cast floats to int8: "
        "most would be 0. Codes are trunc(127 * v / |v|)."
    ),
    "time": (
        "write time in whole seconds as int64; from an Arrow timestamp or date "
        "by column.cast('timestamp[s]').cast('int64')."
    ),
}


def column_of(field: pa.Field) -> str:
    """Returns the name of a field's column in files."""
    return (field.metadata or {}).get(COLUMN, field.name.encode()).decode()


def describe_column(field: pa.Field) -> str:
    """Returns a column with the name that the code uses: ``205 (item_id)``."""
    column = column_of(field)
    return column if column == field.name else f"{column} ({field.name})"


def same_ids(field: pa.Field) -> list[str]:
    """Returns the columns of files that hold the ids of this one."""
    own = column_of(field).encode()
    return (field.metadata or {}).get(_SAME_IDS, own).decode().split("\n")


def in_files(schema: pa.Schema) -> pa.Schema:
    """Returns the schema of files with these fields."""
    return pa.schema([pa.field(column_of(f), f.type) for f in schema])


def plain(schema: pa.Schema) -> pa.Schema:
    """Returns a schema whose columns have the names of the code in files."""
    return pa.schema([pa.field(f.name, f.type) for f in schema])


def schema_problems(
    schema: pa.Schema, expected: pa.Schema, table: str
) -> list[DataError]:
    """Compares a table's schema with what it has to be."""
    problems = []
    for field in expected:
        name, column = column_of(field), describe_column(field)
        found = schema.get_all_field_indices(name)
        wanted = decoding.describe(field)
        if not found:
            have = ", ".join(schema.names) or "none"
            problems.append(
                DataError(
                    "MISSING_COLUMN",
                    f"table {table}: column {column} is missing. "
                    f"Expected: {wanted}. Received columns: {have}.",
                    f"write column {name} as {wanted} into {table}, or name "
                    f"another column in {ranking_schema.FILE_NAME} beside it.",
                )
            )
        elif len(found) > 1:
            problems.append(
                DataError(
                    "DUPLICATE_COLUMN",
                    f"table {table}: column {column} occurs {len(found)} "
                    "times. Expected: once.",
                    f"keep one column {name} in {table}.",
                )
            )
        elif not decoding.accepts(field, schema.field(found[0]).type):
            problems.append(
                wrong_type(table, field, schema.field(found[0]).type)
            )
    return problems


def wrong_type(
    table: str, field: pa.Field, received: pa.DataType, value: str = ""
) -> DataError:
    """Returns the error of a column of another type."""
    example = f", which holds {value}" if value else ""
    column = column_of(field)
    hint = casting.hint(field.with_name(column), received, same_ids(field))
    plain = field.name == LABEL and not casting.is_list(field.type)
    key = "plain label" if plain else field.name
    hint = _TYPE_HINTS.get(key, hint).format(column=column)
    return DataError(
        "WRONG_TYPE",
        f"table {table}: column {describe_column(field)} has the wrong "
        f"type. Expected: {decoding.describe(field)}. Received: "
        f"{casting.describe(received)}{example}.",
        f"{hint} Then write the table again.",
    )


@dataclasses.dataclass(frozen=True)
class RawTable:
    """One raw table: its files and the schema that it has to have."""

    name: str
    paths: tuple[pathlib.Path, ...]
    schema: pa.Schema

    def problems(self) -> list[DataError]:
        """Checks every file's footer; returns all problems found."""
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
        """Checks every file's footer."""
        for problem in self.problems():
            raise problem
        if self.num_rows() == 0:
            raise empty_table(self.name)

    def file_schema(self) -> pa.Schema:
        """Returns the columns of all files, as the first that has one."""
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
        """Returns the bytes of all files."""
        return sum(path.stat().st_size for path in self.paths)

    def iter_batches(
        self,
        columns: Sequence[str] | None = None,
        batch_rows: int | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Streams the table in batches of `batch_rows`, or of about 32 MB.

        Columns come in schema order, cast to the schema's exact types.
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
        """Streams an open file of the table, see `iter_batches`."""
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

    def _label(self, path: pathlib.Path) -> str:
        if len(self.paths) == 1:
            return self.name
        return f"{self.name} ({path.name})"


def empty_table(name: str) -> DataError:
    """Returns the error of a table without rows."""
    return DataError(
        "EMPTY_TABLE",
        f"table {name}: no rows. Expected: at least one.",
        f"write {name} again with its rows.",
    )


def read_rows(
    file: pq.ParquetFile,
    path: pathlib.Path,
    schema: pa.Schema,
    batch_rows: int,
    row_groups: Sequence[int] | None,
    table: str,
) -> Iterator[pa.RecordBatch]:
    """Streams the columns of a schema from a file that has them."""
    columns = in_files(schema).names
    for batch in iter_batches(file, path, columns, batch_rows, row_groups):
        arrays = [
            decoding.decode(batch[column], field)
            for column, field in zip(columns, schema, strict=True)
        ]
        named = pa.RecordBatch.from_arrays(arrays, schema.names)
        yield conform(named, schema, table)


def conform(
    batch: pa.RecordBatch, schema: pa.Schema, table: str = ""
) -> pa.RecordBatch:
    """Selects and casts a batch's columns to a schema, in its order."""
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
    """The raw tables found in a directory, and what declares them."""

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

        Only names are looked at; call `check` for the schemas. The
        declaration is the file ``schema.yaml`` beside the tables, else that of
        Taobao-MM.
        """
        base = pathlib.Path(directory)
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
                if paths := find_files(root, files[name]):
                    tables[name] = RawTable(name, paths, schema)
            if tables:
                break
        else:
            raise DataError(
                "NO_TABLES",
                f"{base} holds none of the raw tables, nor does its raw/. "
                f"Expected: {', '.join(files.values())}, as Parquet. Received: "
                f"{listing(root if root.is_dir() else base)}.",
                f"write {next(iter(files.values()))}.parquet and the others "
                f"there ({_NOT_PARQUET}; docs/data.md has their columns), or "
                "make some with `muse data complete-journey --out DIR`.",
            )
        found = cls(root, tables, known)
        for name in require:
            found[name]
        return found

    def __getitem__(self, name: str) -> RawTable:
        """Returns a table; `DataError` ``MISSING_TABLE`` if not there."""
        if name not in self.tables:
            file = file_names(self.declared).get(name, name)
            raise DataError(
                "MISSING_TABLE",
                f"table {name}: not found in {self.root}. Received: "
                f"{listing(self.root)}.",
                f"put {file}.parquet, {file}-*.parquet or a folder {file}/ "
                f"with such files there ({_NOT_PARQUET}).",
            )
        return self.tables[name]

    def __contains__(self, name: object) -> bool:
        return name in self.tables

    def with_table(
        self, name: str, folder: str | os.PathLike[str]
    ) -> RawTables:
        """Returns the same tables, one of them read from another folder."""
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
        """Checks presence, schema and non-emptiness of all tables.

        Without ``vectors``, that of the item vectors need not be there.
        """
        for name in schemas(self.declared):
            if vectors or name != EMBEDDINGS:
                self[name].check()
