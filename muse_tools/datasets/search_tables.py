"""The optional raw tables that item embeddings are learned from.

``item_content`` describes the items; ``search_events`` holds what users
searched for, bought, and clicked without buying. Both lie beside the other raw
tables in the same forms (`parquet_files.find_files`) and have fixed column
names. A modality is a column ``<modality>_vector`` (for queries,
``query_<modality>_vector``) or a text column, whose modality is ``text``.
If the declaration names a ``text`` of items, the item table replaces
``item_content``.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from muse_tools.datasets import (
    casting,
    decoding,
    raw_tables,
    table_schemas,
)
from muse_tools.datasets.arrow_lists import list_lengths, list_of, list_values
from muse_tools.datasets.errors import DataError
from muse_tools.datasets.item_content import check_modality
from muse_tools.datasets.object_paths import path_of
from muse_tools.datasets.parquet_files import find_files, listing
from muse_tools.datasets.raw_tables import RawTable, wrong_type
from schemas import ranking_schema
from schemas.ranking_schema import RankingSchema

ITEM_CONTENT = "item_content"
SEARCH_EVENTS = "search_events"
TABLES = (ITEM_CONTENT, SEARCH_EVENTS)

ITEM_ID = "item_id"
QUERY_ID = "query_id"
TIME = "time"
PURCHASED_ITEM_ID = "purchased_item_id"
CLICKED_ITEM_IDS = "clicked_item_ids"

TEXT = "text"
"""The modality of text columns."""

_SUFFIX = "_vector"
_PREFIX = {ITEM_CONTENT: "", SEARCH_EVENTS: "query_"}
_KEYS = {
    ITEM_CONTENT: pa.schema([(ITEM_ID, pa.int64())]),
    SEARCH_EVENTS: pa.schema(
        [
            (QUERY_ID, pa.int64()),
            (TIME, pa.int64()),
            (PURCHASED_ITEM_ID, pa.int64()),
            (CLICKED_ITEM_IDS, list_of(pa.int64())),
        ]
    ),
}


@dataclasses.dataclass(frozen=True)
class SearchTable:
    """One of the two tables, with its vector columns and its text column."""

    rows: RawTable
    vectors: Mapping[str, str]
    text: str | None
    of_items: bool = False
    """Whether this is the item table, which has the texts."""

    @property
    def name(self) -> str:
        """``item_content`` or ``search_events``."""
        return self.rows.name

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of all modalities, vectors first."""
        return (*self.vectors, *((TEXT,) if self.text else ()))

    def widths(
        self, declared: Mapping[str, int] | None = None
    ) -> dict[str, int]:
        """Returns the width of each vector modality, the most frequent one."""
        widths = dict(declared or {})
        unknown = {k: v for k, v in self.vectors.items() if k not in widths}
        found = {name: collections.Counter[int]() for name in unknown}
        batches = self.rows.iter_batches([*unknown.values()])
        for batch in batches if unknown else ():
            for name, column in unknown.items():
                found[name].update(list_lengths(batch[column]).tolist())
        for name, counts in found.items():
            counts.pop(0, None)
            if not counts:
                raise DataError(
                    "NO_USABLE_ROWS",
                    f"table {self.name}: column {unknown[name]} holds no "
                    "vector. Expected: at least one.",
                    "leave the column out, or write its vectors.",
                )
            widths[name] = max(counts, key=lambda n: (counts[n], n))
        return {name: widths[name] for name in self.vectors}


def vector_column(table: str, modality: str) -> str:
    """Returns the column that holds the vectors of a modality."""
    return f"{_PREFIX[table]}{modality}{_SUFFIX}"


def find_tables(
    directory: str | os.PathLike[str],
) -> dict[str, tuple[pathlib.Path, ...]]:
    """Finds the files of both tables in a directory or its ``raw/``."""
    base = path_of(directory)
    found: dict[str, tuple[pathlib.Path, ...]] = {}
    for root in (base, base / "raw"):
        if not found:
            found = {n: p for n in TABLES if (p := find_files(root, n))}
    if _declared(base).text and base.is_dir():
        tables = raw_tables.RawTables.open(base).tables
        if raw_tables.ITEM_FEATURES in tables:
            found[ITEM_CONTENT] = tables[raw_tables.ITEM_FEATURES].paths
    return found


def _declared(directory: str | os.PathLike[str]) -> RankingSchema:
    base = path_of(directory)
    return ranking_schema.beside(base / "raw", base)


def open_table(directory: str | os.PathLike[str], name: str) -> SearchTable:
    """Finds one of the two tables and its modalities, or raises `DataError`."""
    if name not in TABLES:
        raise ValueError(f"name: expected one of {TABLES}. Received: {name}")
    paths = find_tables(directory).get(name)
    if not paths:
        raise DataError(
            "MISSING_TABLE",
            f"table {name}: not found in {directory}. It is needed to learn "
            "item embeddings. Received: "
            f"{listing(path_of(directory))}.",
            f"put {name}.parquet there (schemas/README.md describes it), or "
            "set item_embeddings to imported.",
        )
    declared = _declared(directory)
    if declared.text and name == ITEM_CONTENT:
        items = raw_tables.schemas(declared)[raw_tables.ITEM_FEATURES]
        column = {table_schemas.COLUMN: declared.text}
        text = pa.field(TEXT, pa.string(), metadata=column)
        fields = pa.schema([items.field(ITEM_ID), text])
        found = SearchTable(RawTable(name, paths, fields), {}, TEXT, True)
    else:
        found = _with_modalities(name, paths, declared)
    found.rows.check()
    return found


def _with_modalities(
    name: str, paths: tuple[pathlib.Path, ...], declared: RankingSchema
) -> SearchTable:
    keys = _KEYS[name]
    if declared.item.type == "string":
        hashed = {decoding.TEXT: ITEM_ID}
        keys = pa.schema(
            field.with_metadata(hashed) if "item" in field.name else field
            for field in keys
        )
    found = RawTable(name, paths, keys).file_schema()
    vectors, text = _modalities(name, found)
    fields = [f for f in found if f.name in (*vectors.values(), text)]
    rows = RawTable(name, paths, pa.schema([*keys, *fields]))
    return SearchTable(rows, vectors, text)


def _modalities(
    table: str, schema: pa.Schema
) -> tuple[dict[str, str], str | None]:
    prefix = _PREFIX[table]
    vectors = {}
    for field in schema:
        name = field.name.removeprefix(prefix).removesuffix(_SUFFIX)
        if field.name != vector_column(table, name):
            continue
        try:
            check_modality(name)
        except ValueError as error:
            raise DataError(
                "WRONG_NAME",
                f"table {table}: column {field.name}: {error}.",
                "rename the column.",
            ) from error
        if not casting.is_list(field.type) or not pa.types.is_floating(
            casting.leaf(field.type)
        ):
            wanted = pa.field(field.name, pa.list_(pa.float32()))
            raise wrong_type(table, wanted, field.type)
        vectors[name] = field.name
    text = f"{prefix}{TEXT}" if f"{prefix}{TEXT}" in schema.names else None
    if text:
        field = schema.field(schema.get_all_field_indices(text)[0])
        if not (
            pa.types.is_string(field.type)
            or pa.types.is_large_string(field.type)
        ):
            raise wrong_type(table, pa.field(text, pa.string()), field.type)
        if TEXT in vectors:
            raise DataError(
                "AMBIGUOUS_MODALITY",
                f"table {table}: columns {text} and {vectors[TEXT]} are both "
                "modality text. Expected: one of them.",
                f"leave one out, or rename {vectors[TEXT]}.",
            )
    if not vectors and not text:
        have = ", ".join(schema.names) or "none"
        raise DataError(
            "MISSING_COLUMN",
            f"table {table}: no modality. Expected: a column "
            f"{vector_column(table, '<modality>')} of list<float>, or "
            f"{prefix}{TEXT} of string. Received columns: {have}.",
            f"write what the {'queries' if prefix else 'items'} look like "
            f"into {table}.",
        )
    return vectors, text


def vectors(column: pa.Array, width: int) -> npt.NDArray[np.float32]:
    """Returns a vector column as (N, width); missing vectors are zeros."""
    present = list_lengths(column) > 0
    values = list_values(column)
    with np.errstate(over="ignore"):
        values = values.astype(np.float32, copy=False).reshape(-1, width)
    if present.all():
        return values
    matrix = np.zeros((len(column), width), np.float32)
    matrix[present] = values
    return matrix


def texts(column: pa.Array) -> list[str]:
    """Returns N texts without outer spaces; null becomes an empty text."""
    trimmed = pc.utf8_trim_whitespace(pc.fill_null(column, ""))
    return trimmed.to_pylist()


def features(
    table: SearchTable,
    widths: Mapping[str, int],
    batch: pa.RecordBatch,
    encoder: Callable[[Sequence[str]], npt.NDArray[np.float32]] | None,
) -> dict[str, npt.NDArray[np.float32]]:
    """Returns the vectors (N, width) of accepted rows by modality."""
    found = {
        name: vectors(batch[column], widths[name])
        for name, column in table.vectors.items()
    }
    if table.text and encoder:
        found[TEXT] = encoder(texts(batch[table.text]))
    return found


def float_lists(matrix: npt.NDArray[np.float32]) -> pa.ListArray:
    """Returns a matrix (N, width) as N lists of floats, null for zero rows."""
    present = np.any(matrix, axis=1)
    rows = matrix if present.all() else matrix[present]
    ends = np.r_[0, np.cumsum(present * np.int64(matrix.shape[1]))]
    # A null offset is a null list.
    offsets = pa.array(ends, pa.int32(), mask=np.r_[~present, False])
    return pa.ListArray.from_arrays(offsets, pa.array(rows.reshape(-1)))
