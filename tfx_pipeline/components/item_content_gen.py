"""ItemContentGen: imports the content of items from a raw table."""

import collections
import os
import pathlib

import numpy as np
from tfx.v1.dsl.components import OutputArtifact, Parameter, component

from muse_tools.datasets import (
    search_tables,
    search_validation,
    text_features,
    validation,
)
from muse_tools.datasets.errors import DataError
from muse_tools.datasets.item_content import ItemContent, ItemContentWriter
from serving.files import replaced_folder
from tfx_pipeline.components import rejected_rows
from tfx_pipeline.components.artifacts import CONTENT_DIR, ItemContentArtifact
from tfx_pipeline.transforms import arrow_batches

# Rows of a batch with texts, whose vectors take 64 MB.
_TEXT_ROWS = 1 << 15


@component
def ItemContentGen(
    item_content: OutputArtifact[ItemContentArtifact],
    raw_dir: Parameter[str],
    raw_fingerprint: Parameter[str],
    rejected_dir: Parameter[str],
    text_encoder: Parameter[str] = "",
) -> None:
    """Imports the modality vectors and texts of items.

    Args:
        item_content: artifact to write.
        raw_dir: directory of the raw tables; ``item_content`` is read.
        raw_fingerprint: changes when the table or the file of the text
            encoder changes.
        rejected_dir: directory for rejected rows and the row counts.
        text_encoder: encoder of texts, see `text_features.load_encoder`.

    Raises:
        DataError: the table is missing, cannot be read, has another schema or
            no usable row, or the text encoder cannot be used.
    """
    content = build_item_content(
        raw_dir,
        pathlib.Path(item_content.uri) / CONTENT_DIR,
        rejected_dir,
        text_encoder,
    )
    item_content.set_int_custom_property("num_items", len(content))


def build_item_content(
    raw_dir: str | os.PathLike[str],
    target: str | os.PathLike[str],
    rejected_dir: str | os.PathLike[str],
    text_encoder: str = "",
) -> ItemContent:
    """Converts the raw table ``item_content`` to an `ItemContent`.

    Memory holds one batch and about 20 bytes per item. Texts become vectors of
    the modality ``text``, stored as float16; other vectors are stored as
    float32. If an item has several rows, the first one is kept. Rejected rows
    have a reason.

    Raises:
        DataError: the table, or every row of it, is unusable.
    """
    table = search_tables.open_table(raw_dir, search_tables.ITEM_CONTENT)
    encoder = text_features.load_encoder(text_encoder) if table.text else None
    widths = table.widths()
    modalities = dict(widths)
    if encoder:
        modalities[search_tables.TEXT] = encoder.width
    counts: collections.Counter[str] = collections.Counter()
    problem = None
    with replaced_folder(rejected_dir) as folder:
        with rejected_rows.RejectedRows(folder, counts) as rejected:
            try:
                with ItemContentWriter(
                    target,
                    modalities,
                    {search_tables.TEXT: "float16"} if encoder else None,
                    encoder.name if encoder else "",
                    pathlib.Path(raw_dir).name,
                ) as writer:
                    _fill(writer, rejected, table, widths, encoder, counts)
            except DataError as error:  # Write the rejected rows first.
                problem = error
        rejected_rows.write_counts(folder, counts)
    if problem:
        raise problem
    return ItemContent.open(target)


def _fill(
    writer: ItemContentWriter,
    rejected: rejected_rows.RejectedRows,
    table: search_tables.SearchTable,
    widths: dict[str, int],
    encoder: text_features.TextEncoder | None,
    counts: collections.Counter[str],
) -> None:
    """Writes accepted rows, and counts all rows."""
    unique = validation.UniqueKeys(
        search_tables.ITEM_ID, validation.DUPLICATE_ITEM
    )
    batches = table.rows.iter_batches(
        batch_rows=_TEXT_ROWS if encoder else None
    )
    for batch in batches:
        counts[f"read/{table.name}"] += batch.num_rows
        good, bad = search_validation.validate(table, widths, batch)
        rejected.write(table.name, bad)
        good, bad = unique.check(good)
        rejected.write(table.name, bad)
        vectors = search_tables.features(table, widths, good, encoder)
        good, bad, vectors = search_validation.drop_empty(good, vectors)
        rejected.write(table.name, bad)
        for modality, values in vectors.items():
            present = np.any(values, axis=1)
            counts[f"items_with/{modality}"] += int(present.sum())
        counts["items"] += good.num_rows
        writer.add(
            arrow_batches.numpy_column(good, search_tables.ITEM_ID), vectors
        )
    if not counts["items"]:
        reasons = ", ".join(
            f"{count:,} {key.rpartition('/')[2]}"
            for key, count in sorted(counts.items())
            if key.startswith("rejected/")
        )
        raise DataError(
            "NO_USABLE_ROWS",
            f"table {table.name}: all {counts[f'read/{table.name}']:,} rows "
            f"were rejected: {reasons}.",
            "look at the reasons with `muse data inspect`.",
        )
