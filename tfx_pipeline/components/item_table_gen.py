"""ItemTableGen: joins raw item tables into an item table."""

import collections
import pathlib
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from tfx.v1.dsl.components import (
    InputArtifact,
    OutputArtifact,
    Parameter,
    component,
)

from muse_keras.tables import ItemTable
from muse_keras.tables.array_blocks import release_pages
from muse_tools.datasets import item_names, raw_tables, validation
from muse_tools.datasets.errors import DataError
from schemas.columns import Feature
from serving.files import replaced_folder
from tfx_pipeline.components import rejected_rows
from tfx_pipeline.components.artifacts import (
    EMBEDDINGS_DIR,
    TABLE_DIR,
    ItemEmbeddingsArtifact,
    ItemTableArtifact,
)
from tfx_pipeline.transforms import arrow_batches, feature_columns

# The levels of a Parquet list take more memory than its int8 values: decoding
# a batch takes about 2 KB per row.
_BATCH_ROWS = 1 << 14


@component
def ItemTableGen(
    item_table: OutputArtifact[ItemTableArtifact],
    raw_dir: Parameter[str],
    raw_fingerprint: Parameter[str],
    rejected_dir: Parameter[str],
    embeddings: InputArtifact[ItemEmbeddingsArtifact] = None,
) -> None:
    """Joins item embeddings and item features.

    If item ids are texts, their names are written beside the table.

    Args:
        item_table: artifact to write.
        raw_dir: directory of the raw tables.
        raw_fingerprint: changes when the tables change.
        rejected_dir: directory for rejected rows and the row counts.
        embeddings: made by the pipeline; without them, the raw table of
            embeddings is imported.

    Raises:
        DataError: a table is missing, cannot be read or has another schema.
    """
    tables = raw_tables.RawTables.open(raw_dir)
    if embeddings:
        tables = tables.with_table(
            raw_tables.EMBEDDINGS, pathlib.Path(embeddings.uri) / EMBEDDINGS_DIR
        )
    table = build_item_table(
        tables,
        pathlib.Path(item_table.uri) / TABLE_DIR,
        pathlib.Path(rejected_dir),
    )
    collisions = item_names.write_item_names(tables, item_table.uri)
    item_table.set_int_custom_property(
        "id_collisions", sum(collisions.values())
    )
    item_table.set_int_custom_property("num_items", table.num_items)
    item_table.set_int_custom_property("dim", table.dim)


def build_item_table(
    tables: raw_tables.RawTables,
    target: pathlib.Path,
    rejected_dir: pathlib.Path,
) -> ItemTable:
    """Joins item features and embeddings into an ItemTable.

    The table has the items of both raw tables: an item without an embedding has
    a zero vector, and an item without features has missing values. If an item
    has several rows, the first one is kept. Rejected rows are written to
    ``rejected_dir`` with a reason.

    Raises:
        DataError: a table, or every row of it, is unusable.
    """
    for name in (raw_tables.ITEM_FEATURES, raw_tables.EMBEDDINGS):
        tables[name].check()
    counts: collections.Counter[str] = collections.Counter()
    with replaced_folder(rejected_dir) as folder:
        with rejected_rows.RejectedRows(folder, counts) as rejected:
            feature_ids, _, features = _read(
                tables[raw_tables.ITEM_FEATURES],
                "item_features",
                {
                    f"item_{name}": feature
                    for name, feature in tables.declared.features.item.items()
                },
                counts,
                rejected,
            )
            vector_ids, is_first, _ = _read(
                tables[raw_tables.EMBEDDINGS],
                "embeddings",
                {},
                counts,
                rejected,
            )
        ids = np.union1d(feature_ids, vector_ids)
        counts["items"] = len(ids)
        counts["items_without_embedding"] = len(ids) - len(vector_ids)
        counts["items_without_features"] = len(ids) - len(feature_ids)
        rejected_rows.write_counts(folder, counts)
    rows = np.searchsorted(ids, feature_ids)
    columns = {}
    for name, feature in tables.declared.features.item.items():
        given = features.pop(f"item_{name}")
        columns[name] = np.full(
            (len(ids), *given.shape[1:]),
            feature_columns.missing(feature),
            given.dtype,
        )
        columns[name][rows] = given
    del feature_ids, vector_ids, rows
    with ItemTable.filled(
        target,
        ids,
        raw_tables.EMBEDDING_DIM,
        columns,
        source=str(tables.root.name),
        schema={
            "name": tables.declared.name,
            "version": tables.declared.version,
            "digest": tables.declared.digest(),
        },
    ) as codes:
        _fill(codes, ids, tables[raw_tables.EMBEDDINGS], is_first)
    return ItemTable.open(target)


def _read(
    table: raw_tables.RawTable,
    kind: str,
    columns: Mapping[str, Feature],
    counts: collections.Counter[str],
    rejected: rejected_rows.RejectedRows,
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Reads the first accepted row of each item, without its vector.

    Returns:
        Ids int64 (N,), ascending; bool (n,), which of the n accepted rows, in
        the table's order, are the first of their item; the columns, each (N,)
        or (N, W), in the order of the ids.
    """
    parts: dict[str, list[np.ndarray]] = {
        name: [] for name in (raw_tables.ITEM_ID, *columns)
    }
    for batch in table.iter_batches(batch_rows=_BATCH_ROWS):
        counts[f"read/{kind}"] += batch.num_rows
        good, bad = validation.validate(kind, batch)
        rejected.write(kind, bad)
        good = feature_columns.with_filled(good, columns)
        for name, part in parts.items():
            column = arrow_batches.column(good, name)
            # Copied, because a view would keep the whole batch in memory.
            part.append(feature_columns.by_thing(column).copy())
    if not any(map(len, parts[raw_tables.ITEM_ID])):
        raise DataError(
            "NO_USABLE_ROWS",
            f"table {table.name}: all {counts[f'read/{kind}']:,} rows were "
            "rejected.",
            "look at the reasons with `muse data inspect`.",
        )
    values = {name: np.concatenate(parts.pop(name)) for name in [*parts]}
    ids = values.pop(raw_tables.ITEM_ID)
    distinct, first = np.unique(ids, return_index=True)
    is_first = np.zeros(len(ids), bool)
    is_first[first] = True
    if len(distinct) < len(ids):
        extra = ids[~is_first]
        reasons = [validation.DUPLICATE_ITEM] * len(extra)
        # The field's metadata has the name of the raw column.
        field = table.schema.field(raw_tables.ITEM_ID)
        rejected.write(
            kind,
            pa.RecordBatch.from_arrays(
                [pa.array(extra), pa.array(reasons)],
                schema=pa.schema([field, ("reason", pa.string())]),
            ),
        )
    return (
        distinct,
        is_first,
        {name: values.pop(name)[first] for name in columns},
    )


def _fill(
    codes: np.ndarray,
    ids: np.ndarray,
    table: raw_tables.RawTable,
    is_first: np.ndarray,
) -> None:
    """Reads the table again and writes each item's vector into its row."""
    done = 0
    for batch in table.iter_batches(batch_rows=_BATCH_ROWS):
        good, _ = validation.validate("embeddings", batch)
        keep = is_first[done : done + good.num_rows]
        done += good.num_rows
        vectors = arrow_batches.column(good, raw_tables.SCL_EMBEDDING)
        rows = np.searchsorted(
            ids, arrow_batches.numpy_column(good, raw_tables.ITEM_ID)[keep]
        )
        codes[rows] = (
            vectors.flatten()
            .to_numpy()
            .reshape(-1, raw_tables.EMBEDDING_DIM)[keep]
        )
        release_pages(codes)
