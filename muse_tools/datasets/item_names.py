"""Writes names of items whose keys are texts, and counts hash collisions."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from muse_tools.datasets import (
    decoding,
    parquet_files,
    raw_tables,
    table_writer,
    validation,
)
from schemas.hashing import stable_ids

FILE_NAME = "item_names.parquet"
SCHEMA = pa.schema([("item_id", pa.int64()), ("name", pa.string())])
_TABLES = (raw_tables.ITEM_FEATURES, raw_tables.EMBEDDINGS)
# Ids under a second field tell texts apart that share an id.
_OTHER = "\x1fother"


def write_item_names(
    tables: raw_tables.RawTables, folder: str | os.PathLike[str]
) -> dict[str, int]:
    """Writes ``item_names.parquet`` into `folder`, and counts collisions.

    The file has ``item_id`` (int64) and ``name`` of each item in the tables of
    items and vectors; if two texts have the same id, the first is its name.
    Without text keys there is no file. Memory holds 16 bytes for each text.

    Returns:
        For ``item_id`` and each text feature ``item_<f>``, the number of texts
        that have the id of another text.
    """
    texts = tables.declared.texts()
    collisions = {}
    if raw_tables.ITEM_ID in texts:
        path = pathlib.Path(folder) / FILE_NAME
        with table_writer.TableWriter(path, SCHEMA) as writer:
            distinct = _Distinct(texts[raw_tables.ITEM_ID])
            for table in _TABLES:
                for names in _texts(tables, table, raw_tables.ITEM_ID):
                    writer.write(distinct.add(names))
        collisions[raw_tables.ITEM_ID] = distinct.collisions
    for name in tables.declared.features.item:
        name = f"item_{name}"
        if name in texts:
            distinct = _Distinct(texts[name])
            for names in _texts(tables, raw_tables.ITEM_FEATURES, name):
                distinct.add(names)
            collisions[name] = distinct.collisions
    return collisions


class _Distinct:
    """The distinct texts of a field over all batches, known by their ids."""

    def __init__(self, field: str) -> None:
        self._field = field
        self._ids = validation.UniqueKeys(raw_tables.ITEM_ID, "seen")
        self._others = validation.UniqueKeys(raw_tables.ITEM_ID, "seen")

    def add(self, names: pa.Array) -> pa.RecordBatch:
        """Returns the texts whose ids occur for the first time."""
        texts = names.to_pylist()
        self._others.first(stable_ids(self._field + _OTHER, texts))
        ids = stable_ids(self._field, texts)
        first = self._ids.first(ids)
        rows = pa.RecordBatch.from_arrays(
            [pa.array(ids), names.cast(pa.string())], schema=SCHEMA
        )
        return rows.filter(pa.array(first))

    @property
    def collisions(self) -> int:
        """Number of texts that have the id of another text."""
        return len(self._others) - len(self._ids)


def _texts(
    tables: raw_tables.RawTables, table: str, name: str
) -> Iterator[pa.Array]:
    """Streams the distinct texts of a column, batch by batch."""
    if table not in tables:
        return
    field = tables[table].schema.field(name)
    if decoding.TEXT not in (field.metadata or {}):
        return  # The pipeline wrote this table, with ids in place of texts.
    column = raw_tables.column_of(field)
    for path in tables[table].paths:
        with parquet_files.open_file(table, path) as file:
            rows = parquet_files.rows_per_batch(
                file.metadata, pa.schema([(column, pa.string())])
            )
            for batch in parquet_files.iter_batches(file, path, [column], rows):
                found = decoding.texts_of(batch[column], field)
                found = found.unique().drop_null()
                yield found.filter(pc.not_equal(found, ""))
