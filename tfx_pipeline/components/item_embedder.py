"""ItemEmbedder: embeds item content with the tower, as int8 codes."""

import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
from apache_beam.utils import shared
from tfx.v1.dsl.components import (
    BeamComponentParameter,
    InputArtifact,
    OutputArtifact,
    Parameter,
    component,
)

from muse_keras.tables.array_blocks import blocks
from muse_tools.datasets import item_text
from muse_tools.datasets.errors import DataError
from muse_tools.datasets.item_content import ItemContent
from serving.files import write_json
from tfx_pipeline.components import item_embeddings
from tfx_pipeline.components.artifacts import (
    CONTENT_DIR,
    EMBEDDINGS_DIR,
    ItemContentArtifact,
    ItemEmbeddingsArtifact,
)
from tfx_pipeline.scl import embedding
from tfx_pipeline.tfx_internals import path_utils, standard_artifacts

# Largest error of the norm of a unit vector computed in float32.
_NORM_TOLERANCE = 1e-3


@component(use_beam=True)
def ItemEmbedder(
    model: InputArtifact[standard_artifacts.Model],
    item_content: InputArtifact[ItemContentArtifact],
    embeddings: OutputArtifact[ItemEmbeddingsArtifact],
    block_items: Parameter[int] = 1 << 16,
    beam_pipeline: BeamComponentParameter[beam.Pipeline] = None,
) -> None:
    """Embeds every item with Beam and writes int8 codes.

    Args:
        model: SavedModel of SCLTrainer.
        item_content: the items.
        embeddings: receives Parquet files in the layout of the raw embedding
            table, and a report.
        block_items: items per Beam element and per Parquet file.
        beam_pipeline: made by TFX.

    Raises:
        DataError: ``NOT_UNIT``: the model returns vectors that are neither
            unit vectors nor zeros; ``NO_VECTORS``: no item has a vector.
    """
    model_dir = path_utils.serving_model_path(model.uri)
    content_dir = os.path.join(item_content.uri, CONTENT_DIR)
    root = pathlib.Path(embeddings.uri)
    content = ItemContent.open(content_dir)
    parts = [
        (number, rows.start, rows.stop)
        for number, rows in enumerate(blocks(len(content), block_items))
    ]
    embed_block = _EmbedBlock(
        model_dir, content_dir, str(root / EMBEDDINGS_DIR), len(parts)
    )
    report_file = root / item_embeddings.REPORT_FILE
    with beam_pipeline as pipeline:
        _ = (
            pipeline
            | "Blocks" >> beam.Create(parts)
            | "Spread" >> beam.Reshuffle()
            | "Embed" >> beam.ParDo(embed_block)
            | "AllBlocks" >> beam.combiners.ToList()
            | "Report" >> beam.Map(_write_report, str(report_file))
        )
    found = json.loads(report_file.read_text(encoding="utf-8"))
    sample = (
        _sample(content, _load(model_dir)) if found["with_vector"] else None
    )
    item_embeddings.finish(embeddings, found, sample)


class _EmbedBlock(beam.DoFn):
    """Embeds one block of items and writes its file."""

    def __init__(
        self, model: str, content_dir: str, folder: str, total: int
    ) -> None:
        self._model = model
        self._content_dir = content_dir
        self._folder = folder
        self._total = total
        # All threads of a process share one model.
        self._shared = shared.Shared()

    def setup(self) -> None:
        self._content = ItemContent.open(self._content_dir)
        self._embed = self._shared.acquire(lambda: _load(self._model))

    def process(
        self, element: tuple[int, int, int]
    ) -> Iterator[item_embeddings.BlockReport]:
        """Embeds a block; a retry replaces the same file."""
        number, start, stop = element
        ids, codes = [], []
        for rows, vectors in embedding.embed_content(
            self._embed, self._content, slice(start, stop)
        ):
            mine = np.asarray(self._content.item_ids[rows])
            has_vector = _check_unit(mine, vectors)
            ids.append(mine[has_vector])
            codes.append(item_text.quantize(vectors[has_vector]))
        all_codes = np.concatenate(codes)
        item_embeddings.write_codes(
            pathlib.Path(self._folder),
            number,
            self._total,
            np.concatenate(ids),
            all_codes,
        )
        yield item_embeddings.BlockReport.of(all_codes, stop - start)


def _write_report(
    blocks_found: list[item_embeddings.BlockReport], path: str
) -> None:
    write_json(pathlib.Path(path), item_embeddings.merge(blocks_found))


def _load(model: str) -> Any:
    # Imported here, because only workers need TensorFlow.
    from tfx_pipeline.scl import export

    return export.load_items_embedder(model)


def _check_unit(
    item_ids: npt.NDArray[np.int64], vectors: npt.NDArray[np.float32]
) -> npt.NDArray[np.bool_]:
    """Returns bool (n,), which rows are unit vectors; others must be zero."""
    norms = np.linalg.norm(vectors, axis=1)
    has_vector = norms > 0
    wrong = has_vector & ~(np.abs(norms - 1) <= _NORM_TOLERANCE)
    wrong |= np.isnan(norms)
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise DataError(
            "NOT_UNIT",
            f"the vector of item {item_ids[first]} has length "
            f"{norms[first]:.4g}; expected 1, or 0 for no content.",
            "check the encoders of the tower for NaN and infinity.",
        )
    return has_vector


def _sample(content: ItemContent, embed: Any) -> npt.NDArray[np.float32]:
    """Returns vectors of evenly spaced items, without zeros."""
    rows = item_embeddings.sampled_rows(len(content))
    vectors = np.concatenate(
        [
            embed(content.features(part))
            for part in np.array_split(rows, -(-len(rows) // 1024))
        ]
    )
    return vectors[np.any(vectors, axis=1)]
