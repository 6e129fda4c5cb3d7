"""Joins raw item tables into an item table, with Beam.

Rows of both tables are sent to ranges of item ids, which hold about equally
many items. Each range becomes an item table of its own, so that joining them
in order gives the table of all items; no process holds more than one range.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Generator, Iterable, Iterator, Mapping

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from muse_keras.tables import ItemTable
from muse_tools.datasets import raw_tables, validation
from muse_tools.datasets.arrow_lists import find_sorted, values_of
from schemas.columns import Feature
from tfx_pipeline.transforms import (
    arrow_batches,
    feature_columns,
    shuffle_files,
    steps,
)

TABLES = (raw_tables.ITEM_FEATURES, raw_tables.EMBEDDINGS)
# The levels of a Parquet list take more memory than its int8 values: decoding
# a batch takes about 2 KB per row.
_BATCH_ROWS = 1 << 14
_SAMPLED_ROWS = 1 << 16

_Part = tuple[int, Mapping[str, Iterable[shuffle_files.Sent]]]


def write_parts(
    pipeline: beam.Pipeline,
    tables: raw_tables.RawTables,
    folder: pathlib.Path,
    shuffle_dir: str | None,
) -> steps.Left:
    """Writes the item table of each range of ids into ``folder``.

    The names of the parts are in the order of their ids.
    """
    columns = {
        f"item_{name}": feature
        for name, feature in tables.declared.features.item.items()
    }
    bounds = _bounds(tables, columns)
    reads, accepted = [], {}
    for name in TABLES:
        table = tables[name]
        paths = {"": [str(path) for path in table.paths]}
        groups = [
            dataclasses.replace(group, rows_per_batch=_BATCH_ROWS)
            for group in steps.row_groups(kind(name), table.schema, paths)
        ]
        read = (
            pipeline
            | f"{name}/RowGroups" >> beam.Create(groups, reshuffle=True)
            | f"{name}/Read"
            >> steps.step(_Read(shuffle_dir, table.schema, bounds, columns))
        )
        accepted[name] = read.rows
        reads.append(read)
    written = (
        accepted
        | "ByRange" >> beam.CoGroupByKey()
        | "WriteParts" >> steps.step(_WritePart(shuffle_dir, folder, columns))
    )
    return steps.left(*reads, written)


def kind(table: str) -> str:
    """Returns the name of a table in counts and for `validation`."""
    return "embeddings" if table == raw_tables.EMBEDDINGS else table


def _bounds(
    tables: raw_tables.RawTables, columns: Mapping[str, Feature]
) -> np.ndarray:
    """Returns the first id of every range but the first, int64."""
    width = sum(feature.raw_width for feature in columns.values())
    sizes = (8 * width, raw_tables.EMBEDDING_DIM)
    rows = [tables[name].num_rows() for name in TABLES]
    total = sum(n * (16 + s) for n, s in zip(rows, sizes, strict=True))
    ranges = steps.partitions_for(total)
    step = max(1, sum(rows) // _SAMPLED_ROWS)
    sample = np.sort(
        np.concatenate(
            [
                values_of(batch.column(0).drop_null())[::step]
                for name in TABLES
                for batch in tables[name].iter_batches([raw_tables.ITEM_ID])
            ]
        )
    )
    if not len(sample):
        return sample
    return np.unique(sample[np.arange(1, ranges) * len(sample) // ranges])


class _Read(steps.Step):
    """Reads and validates a row group, and sends rows to ranges of ids."""

    def __init__(
        self,
        shuffle_dir: str | None,
        schema: pa.Schema,
        bounds: np.ndarray,
        columns: Mapping[str, Feature],
    ) -> None:
        super().__init__(shuffle_dir)
        self._schema = schema
        self._bounds = bounds
        self._columns = columns

    def send(self, element: steps.RowGroup) -> Iterator[steps.Sent]:
        """Yields accepted rows by range, and rejected ones."""
        for position, batch in steps.read_row_group(element, self._schema):
            yield from steps.count(f"read/{element.table}", batch.num_rows)
            place = np.arange(position, position + batch.num_rows)
            batch = arrow_batches.append(batch, position=pa.array(place))
            good, rejected = validation.validate(element.table, batch)
            yield from steps.reject(element.table, rejected)
            good = feature_columns.with_filled(good, self._columns)
            ids = arrow_batches.numpy_column(good, raw_tables.ITEM_ID)
            ranges = np.searchsorted(self._bounds, ids, side="right")
            for index, rows in arrow_batches.split(good, ranges):
                yield "rows", index, rows


class _WritePart(steps.Step):
    """Writes the item table of one range of ids.

    It has the items of both raw tables: an item without an embedding has a
    zero vector, and an item without features has missing values. The first row
    of an item is used; others are rejected.
    """

    def __init__(
        self,
        shuffle_dir: str | None,
        folder: pathlib.Path,
        columns: Mapping[str, Feature],
    ) -> None:
        super().__init__(shuffle_dir)
        self._folder = folder
        self._columns = columns

    def send(self, element: _Part) -> Iterator[steps.Sent]:
        """Writes the part; yields rejected rows."""
        index, sent = element
        found = []
        for name in TABLES:
            found.append((yield from _first_rows(kind(name), sent[name])))
        features, vectors = found
        with_features, with_vector = _ids(features), _ids(vectors)
        ids = np.union1d(with_features, with_vector)
        codes = np.zeros((len(ids), raw_tables.EMBEDDING_DIM), np.int8)
        if vectors is not None:
            lists = arrow_batches.column(vectors, raw_tables.SCL_EMBEDDING)
            codes[np.searchsorted(ids, with_vector)] = values_of(
                lists.flatten()
            ).reshape(-1, codes.shape[1])
        places, known = find_sorted(with_features, ids)
        places[~known] = -1
        columns = {}
        for name, feature in self._columns.items():
            column = None
            if features is not None:
                column = arrow_batches.column(features, name)
            filled = feature_columns.rows_or_missing(column, places, feature)
            name = name.removeprefix("item_")
            columns[name] = feature_columns.by_thing(filled)
        for name, number in {
            "items": len(ids),
            "items_without_embedding": len(ids) - len(with_vector),
            "items_without_features": len(ids) - len(with_features),
        }.items():
            yield from steps.count(name, number)
        target = self._folder / f"{index:05d}"
        # Beam may repeat a step. A part is renamed when it is complete.
        if not target.exists():
            ItemTable.write(target, ids, codes, columns, source="part")


def _first_rows(
    table: str, sent: Iterable[shuffle_files.Sent]
) -> Generator[steps.Sent, None, pa.RecordBatch | None]:
    """Yields rejected rows; returns the first row of each item, by id."""
    rows = arrow_batches.concatenate(shuffle_files.read(sent))
    if rows is None:
        return None
    ids = _ids(rows)
    order = np.lexsort((arrow_batches.numpy_column(rows, steps.POSITION), ids))
    repeated = np.zeros(len(ids), bool)
    repeated[1:] = ids[order[1:]] == ids[order[:-1]]
    extra = arrow_batches.select(rows, [raw_tables.ITEM_ID, steps.POSITION])
    yield from steps.reject(
        table,
        pc.take(extra, pa.array(order[repeated])),
        validation.DUPLICATE_ITEM,
    )
    return pc.take(rows, pa.array(order[~repeated]))


def _ids(rows: pa.RecordBatch | None) -> np.ndarray:
    if rows is None:
        return np.zeros(0, np.int64)
    return arrow_batches.numpy_column(rows, raw_tables.ITEM_ID)
