"""Work of ItemTableGen."""

from __future__ import annotations

import collections
import pathlib
from typing import Any

import numpy as np
import pyarrow as pa

from muse_keras.tables import ItemTable
from tfx_pipeline.components import rejected_rows
from tfx_pipeline.components.artifacts import EMBEDDINGS_DIR
from tfx_pipeline.data import raw_tables, validation
from tfx_pipeline.data.errors import DataError
from tfx_pipeline.tfx_internals import artifact_utils, base_executor
from tfx_pipeline.transforms import arrow_batches

__all__ = ["TABLE_DIR", "Executor", "build_item_table"]

TABLE_DIR = "table"
_FEATURES = {
    "category": raw_tables.ITEM_CATEGORY,
    "city": raw_tables.ITEM_CITY,
    "province": raw_tables.ITEM_PROVINCE,
}


class Executor(base_executor.BaseExecutor):
    """Reads the two item tables and writes one ItemTable."""

    def Do(
        self,
        input_dict: dict[str, list],
        output_dict: dict[str, list],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes the ItemTable.

        Args:
            input_dict: ``embeddings``, one artifact, or nothing.
            output_dict: ``item_table``, one artifact.
            exec_properties: as in `ItemTableGenSpec`.

        Raises:
            DataError: a table is missing, unreadable or of another schema.
        """
        artifact = artifact_utils.get_single_instance(output_dict["item_table"])
        tables = raw_tables.RawTables.open(exec_properties["raw_dir"])
        if made := input_dict.get("embeddings"):
            folder = artifact_utils.get_single_instance(made).uri
            tables = tables.with_table(
                raw_tables.EMBEDDINGS, pathlib.Path(folder) / EMBEDDINGS_DIR
            )
        table = build_item_table(
            tables,
            pathlib.Path(artifact.uri) / TABLE_DIR,
            pathlib.Path(exec_properties["rejected_dir"]),
        )
        artifact.set_int_custom_property("num_items", table.num_items)
        artifact.set_int_custom_property("dim", table.dim)


def build_item_table(
    tables: raw_tables.RawTables,
    target: pathlib.Path,
    rejected_dir: pathlib.Path,
) -> ItemTable:
    """Joins item features and embeddings into an ItemTable.

    The items are the union of both tables: an item without an embedding keeps
    its features and a zero vector, an item without features its vector. Of
    duplicate rows the first is kept. Rejected rows go to ``rejected_dir`` with
    a reason.

    Args:
        tables: raw tables.
        target: directory to write.
        rejected_dir: directory for rejected rows and counts.

    Returns:
        The written table, opened.

    Raises:
        DataError: a table is unusable, or no row is.
    """
    for name in (raw_tables.ITEM_FEATURES, raw_tables.EMBEDDINGS):
        tables[name].check()
    counts: collections.Counter[str] = collections.Counter()
    with rejected_rows.replaced(rejected_dir) as fresh_dir:
        feature_ids, features = _read(
            tables[raw_tables.ITEM_FEATURES],
            "item_features",
            list(_FEATURES.values()),
            counts,
            fresh_dir,
        )
        vector_ids, vectors = _read(
            tables[raw_tables.EMBEDDINGS],
            "embeddings",
            [raw_tables.SCL_EMBEDDING],
            counts,
            fresh_dir,
        )
        ids = np.union1d(feature_ids, vector_ids)
        counts["items"] = len(ids)
        counts["items_without_embedding"] = len(ids) - len(vector_ids)
        counts["items_without_features"] = len(ids) - len(feature_ids)
        rejected_rows.write_counts(fresh_dir, counts)
    codes = np.zeros((len(ids), raw_tables.EMBEDDING_DIM), np.int8)
    codes[np.searchsorted(ids, vector_ids)] = vectors[raw_tables.SCL_EMBEDDING]
    rows = np.searchsorted(ids, feature_ids)
    columns = {}
    for name, code in _FEATURES.items():
        columns[name] = np.zeros(len(ids), np.int64)
        columns[name][rows] = features[code]
    return ItemTable.write(
        target, ids, codes, columns, source=str(tables.root.name)
    )


def _read(
    table: raw_tables.RawTable,
    kind: str,
    columns: list[str],
    counts: collections.Counter[str],
    rejected_dir: pathlib.Path,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Reads the accepted rows of a table keyed by item, first row of each."""
    ids_parts: list[np.ndarray] = []
    parts: dict[str, list[np.ndarray]] = {name: [] for name in columns}
    rejected: list[pa.RecordBatch] = []
    for batch in table.iter_batches():
        counts[f"read/{kind}"] += batch.num_rows
        good, bad = validation.validate(kind, batch)
        if bad.num_rows:
            rejected.append(bad)
        ids_parts.append(arrow_batches.numpy_column(good, raw_tables.ITEM_ID))
        for name in columns:
            column = good.column(good.schema.get_field_index(name))
            if name == raw_tables.SCL_EMBEDDING:
                values = (
                    column.flatten()
                    .to_numpy()
                    .reshape(-1, raw_tables.EMBEDDING_DIM)
                )
            else:
                values = column.to_numpy()
            parts[name].append(values)
    ids = np.concatenate(ids_parts) if ids_parts else np.zeros(0, np.int64)
    if not len(ids):
        raise DataError(
            "NO_USABLE_ROWS",
            f"table {table.name}: all {counts[f'read/{kind}']:,} rows were "
            "rejected.",
            "look at the reasons with `muse data inspect`.",
        )
    values = {name: np.concatenate(part) for name, part in parts.items()}
    distinct, first = np.unique(ids, return_index=True)
    if len(distinct) < len(ids):
        extra = np.ones(len(ids), bool)
        extra[first] = False
        rejected.append(
            pa.RecordBatch.from_arrays(
                [
                    pa.array(ids[extra]),
                    pa.array(["duplicate item row"] * int(extra.sum())),
                ],
                names=[raw_tables.ITEM_ID, "reason"],
            )
        )
    for number, batch in enumerate(rejected):
        for value in batch.column(
            batch.schema.get_field_index("reason")
        ).value_counts():
            reason = value["values"].as_py()
            counts[f"rejected/{kind}/{reason}"] += value["counts"].as_py()
        raw_tables.write_table(rejected_dir / f"{kind}-{number}.parquet", batch)
    return distinct, {name: part[first] for name, part in values.items()}
