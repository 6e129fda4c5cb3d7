"""The raw Taobao-MM tables: schemas, where they lie, reading, writing.

A data set is a directory (or its ``raw/`` subdirectory) with six Parquet
tables. Each table is one file ``NAME.parquet``, shards
``NAME-*.parquet``, or a folder ``NAME/`` (`parquet_files`). User features of
the published set are 44.6 GB in seven row groups, so everything here
streams: no function reads a whole table.

Source of names and types: the Taobao-MM files as published.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from muse_tools.datasets import casting
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
ITEM_PROPERTIES = (ITEM_CATEGORY, ITEM_CITY, ITEM_PROVINCE)
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


_LIST_VALUES = {
    LABEL: pa.int8(),
    BEHAVIOR_ITEM_IDS: pa.int64(),
    BEHAVIOR_CATEGORY_IDS: pa.int64(),
    SCL_EMBEDDING: pa.int8(),
}


def _schema(*codes: str) -> pa.Schema:
    """Returns a schema of ids, and of lists for the columns that hold them."""
    return pa.schema(
        [
            (c, list_of(_LIST_VALUES[c]) if c in _LIST_VALUES else pa.int64())
            for c in codes
        ]
    )


_SAMPLES = _schema(LABEL, USER_ID, ITEM_ID)
_USER_FEATURES = _schema(
    USER_ID, *USER_PROFILE, BEHAVIOR_ITEM_IDS, BEHAVIOR_CATEGORY_IDS
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
    ITEM_FEATURES: _schema(ITEM_ID, *ITEM_PROPERTIES),
    EMBEDDINGS: _schema(ITEM_ID, SCL_EMBEDDING),
}
"""Table name to its Arrow schema."""

SPLITS = ("train", "test")

_NOT_PARQUET = "CSV and other files are not read: write them as Parquet"


# Columns that hold the same ids, by each of their names.
_GROUP_OF_IDS = {
    code: group
    for group in (
        (
            ITEM_ID,
            BEHAVIOR_ITEM_IDS,
            "item_id",
            "purchased_item_id",
            "clicked_item_ids",
        ),
        (ITEM_CATEGORY, BEHAVIOR_CATEGORY_IDS),
    )
    for code in group
}
_TYPE_HINTS = {
    LABEL: (
        f"make {LABEL} list<int8> of two: [1, 0] where the item was not "
        "clicked, [0, 1] where it was, that is [1 - c, c] for a click c."
    ),
    SCL_EMBEDDING: (
        f"make {SCL_EMBEDDING} a list of {EMBEDDING_DIM} floats or int8 codes "
        "for each item; floats become codes here. Do not cast floats to int8: "
        "most would be 0. Codes are trunc(127 * v / |v|)."
    ),
    "time": (
        "write time in whole seconds as int64; from an Arrow timestamp or date "
        "by column.cast('timestamp[s]').cast('int64')."
    ),
}


def describe_column(code: str) -> str:
    """Returns a column code with this project's name: ``205 (item_id)``."""
    name = NAME_OF_CODE.get(code)
    return f"{code} ({name})" if name else code


def schema_problems(
    schema: pa.Schema, expected: pa.Schema, table: str
) -> list[DataError]:
    """Compares a table's schema with what it has to be."""
    problems = []
    for field in expected:
        found = schema.get_all_field_indices(field.name)
        column = describe_column(field.name)
        wanted = casting.describe(field.type)
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
        elif not casting.accepts(field.type, schema.field(found[0]).type):
            problems.append(
                wrong_type(table, field, schema.field(found[0]).type)
            )
    return problems


def wrong_type(
    table: str, field: pa.Field, received: pa.DataType, value: str = ""
) -> DataError:
    """Returns the error of a column of another type."""
    example = f", which holds {value}" if value else ""
    group = _GROUP_OF_IDS.get(field.name, (field.name,))
    hint = _TYPE_HINTS.get(field.name) or casting.hint(field, received, group)
    return DataError(
        "WRONG_TYPE",
        f"table {table}: column {describe_column(field.name)} has the wrong "
        f"type. Expected: {casting.describe(field.type)}. Received: "
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
                f"columns: expected codes among {self.schema.names}. "
                f"Received: {sorted(unknown)}"
            )
        schema = pa.schema([f for f in self.schema if f.name in wanted])
        label = self._label(path)
        for problem in schema_problems(schema_of(file, path), schema, label):
            raise problem
        rows = batch_rows or rows_per_batch(file.metadata, schema)
        for batch in iter_batches(file, path, schema.names, rows, row_groups):
            yield conform(batch, schema, label)

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
    """The raw tables found in a directory."""

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
            for name, schema in SCHEMAS.items():
                if paths := find_files(root, name):
                    tables[name] = RawTable(name, paths, schema)
            if tables:
                break
        else:
            raise DataError(
                "NO_TABLES",
                f"{base} holds none of the raw tables, nor does its raw/. "
                f"Expected: {', '.join(SCHEMAS)}, as Parquet. Received: "
                f"{listing(root if root.is_dir() else base)}.",
                f"write {TRAIN_SAMPLES}.parquet and the others there "
                f"({_NOT_PARQUET}; schemas/README.md has their columns), or "
                "make some with `muse data complete-journey --out DIR`.",
            )
        found = cls(root, tables)
        for name in require:
            found[name]
        return found

    def __getitem__(self, name: str) -> RawTable:
        """Returns a table; `DataError` ``MISSING_TABLE`` if not there."""
        if name not in self.tables:
            raise DataError(
                "MISSING_TABLE",
                f"table {name}: not found in {self.root}. Received: "
                f"{listing(self.root)}.",
                f"put {name}.parquet, {name}-*.parquet or a folder {name}/ "
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
        table = RawTable(name, paths, SCHEMAS[name])
        return RawTables(self.root, {**self.tables, name: table})

    def check(self, require: Iterable[str] = tuple(SCHEMAS)) -> None:
        """Checks presence, schema and non-emptiness of tables."""
        for name in require:
            self[name].check()
