"""TextEmbedder: embeds item texts as int8 codes, without training."""

import os
import pathlib

import numpy as np
from tfx.v1.dsl.components import (
    InputArtifact,
    OutputArtifact,
    Parameter,
    component,
)

from muse_tools.datasets import item_text, search_tables
from muse_tools.datasets.errors import DataError
from muse_tools.datasets.item_content import ItemContent
from tfx_pipeline.components import item_embeddings
from tfx_pipeline.components.artifacts import (
    CONTENT_DIR,
    EMBEDDINGS_DIR,
    ItemContentArtifact,
    ItemEmbeddingsArtifact,
)


@component
def TextEmbedder(
    item_content: InputArtifact[ItemContentArtifact],
    embeddings: OutputArtifact[ItemEmbeddingsArtifact],
    raw_dir: Parameter[str],
    raw_fingerprint: Parameter[str],
    seed: Parameter[int],
) -> None:
    """Embeds items by a decomposition of their texts (`item_text`).

    The decomposition needs all texts at once, so memory grows with them.

    Args:
        item_content: the items.
        embeddings: receives one Parquet file in the layout of the raw
            embedding table, and a report.
        raw_dir: directory of the raw tables, for the texts themselves.
        raw_fingerprint: changes when the tables change.
        seed: seed of the randomized decomposition.

    Raises:
        DataError: ``NO_TEXT``: the table has no texts; ``NO_VECTORS``: no item
            has a vector.
    """
    content = ItemContent.open(os.path.join(item_content.uri, CONTENT_DIR))
    vectors = item_text.text_vectors(
        {"text": item_texts(raw_dir, content)}, {"text": 1.0}, seed=seed
    )
    has_vector = np.any(vectors, axis=1)
    codes = item_text.quantize(vectors[has_vector])
    item_embeddings.write_codes(
        pathlib.Path(embeddings.uri) / EMBEDDINGS_DIR,
        0,
        1,
        np.asarray(content.item_ids)[has_vector],
        codes,
    )
    step = max(1, len(codes) // item_embeddings.SAMPLE_ITEMS)
    item_embeddings.finish(
        embeddings,
        item_embeddings.merge(
            [item_embeddings.BlockReport.of(codes, len(content))]
        ),
        vectors[has_vector][::step],
    )


def item_texts(raw_dir: str, content: ItemContent) -> list[str]:
    """Returns the text of every item with content; "" if it has none.

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
            # If an item has several rows, the first one is used, as in the
            # content.
            if row >= 0 and not found[row]:
                found[row] = text
    return found
