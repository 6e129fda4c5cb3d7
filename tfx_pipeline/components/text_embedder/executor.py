"""Work of TextEmbedder."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import numpy as np

from muse_tools.datasets import item_text, search_tables
from muse_tools.datasets.errors import DataError
from muse_tools.datasets.item_content import ItemContent
from tfx_pipeline.components.artifacts import EMBEDDINGS_DIR
from tfx_pipeline.components.item_content_gen.executor import CONTENT_DIR
from tfx_pipeline.components.item_embedder import output, report
from tfx_pipeline.tfx_internals import artifact_utils, base_executor

__all__ = ["Executor", "item_texts"]


class Executor(base_executor.BaseExecutor):
    """Embeds the text of every item."""

    def Do(
        self,
        input_dict: dict[str, list],
        output_dict: dict[str, list],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes one Parquet file in the layout of the raw embedding table.

        The decomposition is over all texts at once: memory grows with them.

        Args:
            input_dict: ``item_content``, one artifact.
            output_dict: ``embeddings``, one artifact.
            exec_properties: as in `TextEmbedderSpec`.

        Raises:
            DataError: ``NO_TEXT``: the content has no text; ``NO_VECTORS``:
                no item has any.
        """
        content = ItemContent.open(
            os.path.join(
                artifact_utils.get_single_uri(input_dict["item_content"]),
                CONTENT_DIR,
            )
        )
        artifact = artifact_utils.get_single_instance(output_dict["embeddings"])
        vectors = item_text.text_vectors(
            {"text": item_texts(exec_properties["raw_dir"], content)},
            {"text": 1.0},
            seed=exec_properties["seed"],
        )
        has_vector = np.any(vectors, axis=1)
        codes = item_text.quantize(vectors[has_vector])
        output.write_codes(
            pathlib.Path(artifact.uri) / EMBEDDINGS_DIR,
            0,
            1,
            np.asarray(content.item_ids)[has_vector],
            codes,
        )
        output.finish(
            artifact,
            report.merge([report.BlockReport.of(codes, len(content))]),
            vectors[has_vector][:: max(1, len(codes) // output.SAMPLE_ITEMS)],
        )


def item_texts(raw_dir: str, content: ItemContent) -> list[str]:
    """Returns the text of every item with content; empty without one.

    Args:
        raw_dir: directory of the raw tables.
        content: the items.

    Raises:
        DataError: ``NO_TEXT``: the table has no column of texts.
    """
    table = search_tables.open_table(raw_dir, search_tables.ITEM_CONTENT)
    if table.text is None:
        raise DataError(
            "NO_TEXT",
            f"table {table.name} has no column {search_tables.TEXT}, which "
            "item_embeddings: text_svd embeds.",
            "write the items' texts there, or set item_embeddings to learned.",
        )
    found = [""] * len(content)
    for batch in table.rows.iter_batches([search_tables.ITEM_ID, table.text]):
        ids = batch.column(0).fill_null(0).to_numpy(zero_copy_only=False)
        rows = content.rows_of(ids).tolist()
        texts = search_tables.texts(batch.column(1))
        for row, text in zip(rows, texts, strict=True):
            # Of duplicate rows the first counts, as in the content.
            if row >= 0 and not found[row]:
                found[row] = text
    return found
