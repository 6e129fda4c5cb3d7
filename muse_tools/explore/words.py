"""Converts features of items and users to readable texts."""

from __future__ import annotations

import datetime
import functools
import math
import zoneinfo
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from muse_tools.datasets import decoding, raw_tables, validation
from muse_tools.datasets.object_paths import source
from schemas.hashing import stable_id

_MOST_TEXTS = 100_000
_LONG_ID = 10**12


class Words:
    """Converts values of features to texts, by names of `Features.learned`.

    Columns of texts are ids in the tables, so their texts are read from the
    files. If a column has very many texts, the others are shown as ids. Of long
    ids, the end stands for all.
    """

    def __init__(self, tables: raw_tables.RawTables) -> None:
        self._tables = tables
        self._features = tables.declared.features.learned()
        self._texts = functools.cache(lambda name: texts(tables, name))

    def of(self, name: str, value: Any) -> str:
        """Returns a value as text; "" if it is missing."""
        if isinstance(value, (list, tuple)):
            if self._features[name].dim:
                return "" if math.isnan(value[0]) else f"{len(value)} numbers"
            return ", ".join(filter(None, (self.of(name, v) for v in value)))
        if isinstance(value, float):
            return "" if math.isnan(value) else f"{value:.4g}"
        if not value:
            return ""
        text = self._texts(name).get(value)
        return _id(value) if text is None else text

    def of_all(self, group: str, values: Mapping[str, Any]) -> dict[str, str]:
        """Returns the texts of a group's features that are not missing."""
        words = {n: self.of(f"{group}_{n}", v) for n, v in values.items()}
        return {name: text for name, text in words.items() if text}

    def behavior(self, name: str, value: Any) -> str:
        """Returns the text of a behavior feature, maybe one of its item."""
        feature = self._tables.declared.features.behavior[name]
        if feature.time:
            return _age(float(value))
        group = "behavior" if f"behavior_{name}" in self._features else "item"
        return self.of(f"{group}_{name}", value)

    def time(self, seconds: int) -> str:
        """Returns a time of the log in the log's time zone."""
        log = self._tables.declared.log
        zone = zoneinfo.ZoneInfo(log.timezone if log else "UTC")
        moment = datetime.datetime.fromtimestamp(seconds, zone)
        return moment.strftime("%Y-%m-%d %H:%M")

    @functools.cached_property
    def _items(self) -> pa.Table:
        """Features of all items, without features that are vectors."""
        table = self._tables[raw_tables.ITEM_FEATURES]
        names = [
            f"item_{name}"
            for name, one in self._tables.declared.features.item.items()
            if not one.dim
        ]
        columns = [raw_tables.ITEM_ID, *names]
        good = [
            validation.validate(table.name, batch).good
            for batch in table.iter_batches(columns)
        ]
        return pa.Table.from_batches(good)

    def items(self, item_ids: Iterable[int]) -> list[dict[str, str]]:
        """Returns the features of items; {} for items without a row."""
        if raw_tables.ITEM_FEATURES not in self._tables:
            return [{} for _ in item_ids]
        wanted = pa.array(list(item_ids), pa.int64())
        places = pc.index_in(
            wanted, value_set=self._items[raw_tables.ITEM_ID].combine_chunks()
        )
        return [
            self.of_all(
                "item",
                {
                    name.removeprefix("item_"): value
                    for name, value in row.items()
                    if name != raw_tables.ITEM_ID
                },
            )
            for row in self._items.take(places).to_pylist()
        ]


def texts(tables: raw_tables.RawTables, name: str) -> dict[int, str]:
    """Returns the texts of a feature by their ids; {} if it has no texts."""
    hashed_as = tables.declared.texts().get(name)
    if hashed_as is None:
        return {}
    found: set[str] = set()
    for table in tables.tables.values():
        if name not in table.schema.names:
            continue
        field = table.schema.field(name)
        column = raw_tables.column_of(field)
        separator = (field.metadata or {}).get(decoding.SEPARATOR, b"").decode()
        for path in table.paths:
            for batch in pq.ParquetFile(source(path)).iter_batches(
                columns=[column]
            ):
                found.update(_distinct(batch.column(0), separator))
                if len(found) > _MOST_TEXTS:
                    return _by_id(hashed_as, found)
    return _by_id(hashed_as, found)


def _distinct(values: pa.Array, separator: str) -> list[str]:
    if separator:
        values = pc.split_pattern(values, separator)
    while pa.types.is_nested(values.type):
        values = values.flatten()
    return [text for text in values.unique().to_pylist() if text]


def _by_id(field: str, found: set[str]) -> dict[int, str]:
    return {stable_id(field, text): text for text in sorted(found)}


def _id(value: int) -> str:
    """Returns an id; of one too long to read, as hashes are, the last bits."""
    return str(value) if abs(value) < _LONG_ID else f"#{value & 0xFFFFFF:06x}"


def _age(seconds: float) -> str:
    units = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))
    unit, name = next((one for one in units if seconds >= one[0]), units[-1])
    number = f"{seconds / unit:.3g}"
    return f"{number} {name}{'' if number == '1' else 's'} before"
