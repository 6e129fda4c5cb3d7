"""Work of ItemContentGen."""

from __future__ import annotations

import collections
import os
import pathlib
from typing import Any

import numpy as np
import pyarrow as pa

from muse_tools.datasets import (
    raw_tables,
    search_tables,
    search_validation,
    text_features,
    validation,
)
from muse_tools.datasets.errors import DataError
from muse_tools.datasets.item_content import ItemContent, ItemContentWriter
from tfx_pipeline.components import rejected_rows
from tfx_pipeline.tfx_internals import artifact_utils, base_executor
from tfx_pipeline.transforms import arrow_batches

__all__ = ["CONTENT_DIR", "Executor", "build_item_content"]

CONTENT_DIR = "content"

# Texts of one batch: their vectors take 64 MB.
_TEXT_ROWS = 1 << 15


class Executor(base_executor.BaseExecutor):
    """Reads the content table and writes one `ItemContent`."""

    def Do(
        self,
        input_dict: dict[str, list],
        output_dict: dict[str, list],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes the item content.

        Args:
            input_dict: empty.
            output_dict: ``item_content``, one artifact.
            exec_properties: as in `ItemContentGenSpec`.

        Raises:
            DataError: the table is missing, unreadable, of another schema or
                without a usable row, or the text encoder cannot be used.
        """
        artifact = artifact_utils.get_single_instance(
            output_dict["item_content"]
        )
        content = build_item_content(
            exec_properties["raw_dir"],
            pathlib.Path(artifact.uri) / CONTENT_DIR,
            exec_properties["rejected_dir"],
            exec_properties["text_encoder"],
        )
        artifact.set_int_custom_property("num_items", len(content))


def build_item_content(
    raw_dir: str | os.PathLike[str],
    target: str | os.PathLike[str],
    rejected_dir: str | os.PathLike[str],
    text_encoder: str = "",
) -> ItemContent:
    """Turns the raw table ``item_content`` into an `ItemContent`.

    Streams: memory holds one batch and about 20 bytes per item. Texts become
    vectors of modality ``text``, kept in float16; other vectors are kept in
    float32. Of duplicate rows the first is kept. Rejected rows go to
    ``rejected_dir`` with a reason.

    Args:
        raw_dir: directory of the raw tables.
        target: directory to write.
        rejected_dir: directory for rejected rows and counts.
        text_encoder: what encodes texts, see `text_features.load_encoder`.

    Returns:
        The written content, opened.

    Raises:
        DataError: the table is not usable, or no row is.
    """
    table = search_tables.open_table(raw_dir, search_tables.ITEM_CONTENT)
    encoder = text_features.load_encoder(text_encoder) if table.text else None
    widths = table.widths()
    modalities = dict(widths)
    if encoder:
        modalities[search_tables.TEXT] = encoder.width
    counts: collections.Counter[str] = collections.Counter()
    problem = None
    with rejected_rows.replaced(rejected_dir) as folder:
        try:
            with (
                _Rejected(folder, table.name, counts) as rejected,
                ItemContentWriter(
                    target,
                    modalities,
                    {search_tables.TEXT: "float16"} if encoder else None,
                    encoder.name if encoder else "",
                    pathlib.Path(raw_dir).name,
                ) as writer,
            ):
                _fill(writer, rejected, table, widths, encoder, counts)
        except DataError as error:  # the rejected rows say why
            problem = error
        rejected_rows.write_counts(folder, counts)
    if problem:
        raise problem
    return ItemContent.open(target)


def _fill(
    writer: ItemContentWriter,
    rejected: _Rejected,
    table: search_tables.SearchTable,
    widths: dict[str, int],
    encoder: text_features.TextEncoder | None,
    counts: collections.Counter[str],
) -> None:
    """Writes the accepted rows and counts all."""
    unique = validation.UniqueKeys(
        search_tables.ITEM_ID, validation.DUPLICATE_ITEM
    )
    batches = table.rows.iter_batches(
        batch_rows=_TEXT_ROWS if encoder else None
    )
    for batch in batches:
        counts[f"read/{table.name}"] += batch.num_rows
        good, bad = search_validation.validate(table, widths, batch)
        rejected.write(bad)
        good, bad = unique.check(good)
        rejected.write(bad)
        vectors = search_tables.features(table, widths, good, encoder)
        good, bad, vectors = search_validation.drop_empty(good, vectors)
        rejected.write(bad)
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


class _Rejected:
    """Writes rejected rows to one file, made with the first of them."""

    def __init__(
        self,
        folder: pathlib.Path,
        table: str,
        counts: collections.Counter[str],
    ) -> None:
        self._path = folder / f"{table}-0.parquet"
        self._prefix = f"rejected/{table}"
        self._counts = counts
        self._writer: raw_tables.TableWriter | None = None

    def write(self, rows: pa.RecordBatch) -> None:
        """Appends rows with a reason, and counts them."""
        if not rows.num_rows:
            return
        if self._writer is None:
            self._writer = raw_tables.TableWriter(self._path, rows.schema)
            self._writer.__enter__()
        self._writer.write(rows)
        reasons = rows[validation.REASON_COLUMN].to_pylist()
        for reason, count in collections.Counter(reasons).items():
            self._counts[f"{self._prefix}/{reason}"] += count

    def __enter__(self) -> _Rejected:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Completes the file, whatever happened."""
        if self._writer is not None:
            self._writer.__exit__(None, None, None)
