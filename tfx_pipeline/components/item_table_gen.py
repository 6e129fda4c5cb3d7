"""ItemTableGen: joins raw item tables into an item table."""

import pathlib
import tempfile
from collections.abc import Mapping

import apache_beam as beam
from tfx.v1.dsl.components import (
    BeamComponentParameter,
    InputArtifact,
    OutputArtifact,
    Parameter,
    component,
)

from muse_keras.tables import ItemTable
from muse_tools.datasets import item_names, raw_tables
from muse_tools.datasets.errors import DataError
from serving.files import replaced_folder
from tfx_pipeline.components import rejected_rows
from tfx_pipeline.components.artifacts import (
    EMBEDDINGS_DIR,
    TABLE_DIR,
    ItemEmbeddingsArtifact,
    ItemTableArtifact,
)
from tfx_pipeline.transforms import item_table_join, shuffle_files


@component(use_beam=True)
def ItemTableGen(
    item_table: OutputArtifact[ItemTableArtifact],
    raw_dir: Parameter[str],
    raw_fingerprint: Parameter[str],
    rejected_dir: Parameter[str],
    embeddings: InputArtifact[ItemEmbeddingsArtifact] = None,
    beam_pipeline: BeamComponentParameter[beam.Pipeline] = None,
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
        beam_pipeline: made by TFX.

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
        beam_pipeline,
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
    pipeline: beam.Pipeline | None = None,
) -> ItemTable:
    """Joins item features and embeddings into an ItemTable.

    The table has the items of both raw tables: an item without an embedding has
    a zero vector, and an item without features has missing values. If an item
    has several rows, the first one is kept. Rejected rows are written to
    ``rejected_dir`` with a reason. Workers and this process must share the
    folders; none of them holds the table.

    Args:
        tables: the raw tables.
        target: directory to make.
        rejected_dir: directory for rejected rows and the row counts.
        pipeline: where to join; by default in this process.

    Raises:
        DataError: a table, or every row of it, is unusable.
    """
    for name in item_table_join.TABLES:
        tables[name].check()
    pipeline = pipeline or beam.Pipeline()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=".parts", dir=target.parent
    ) as temporary:
        parts = pathlib.Path(temporary) / "parts"
        with (
            replaced_folder(rejected_dir) as folder,
            shuffle_files.directory_for(
                pipeline.runner, temporary
            ) as shuffle_dir,
        ):
            with pipeline:
                left = item_table_join.write_parts(
                    pipeline, tables, parts, shuffle_dir
                )
                rejected_rows.write_left(left, folder)
            counts = {
                "items_without_embedding": 0,
                "items_without_features": 0,
                **rejected_rows.read_counts(folder),
            }
            rejected_rows.write_counts(folder, counts)
        _check_usable(counts, tables)
        return ItemTable.join(
            target,
            sorted(parts.iterdir()),
            source=str(tables.root.name),
            schema={
                "name": tables.declared.name,
                "version": tables.declared.version,
                "digest": tables.declared.digest(),
            },
        )


def _check_usable(
    counts: Mapping[str, int], tables: raw_tables.RawTables
) -> None:
    for name in item_table_join.TABLES:
        kind = item_table_join.kind(name)
        read = counts[f"read/{kind}"]
        rejected = sum(
            count
            for key, count in counts.items()
            if key.startswith(f"rejected/{kind}/")
        )
        if read == rejected:
            raise DataError(
                "NO_USABLE_ROWS",
                f"table {tables[name].name}: all {read:,} rows were rejected.",
                "look at the reasons with `muse data inspect`.",
            )
