"""Work of ItemEmbedder."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
from apache_beam.utils import shared

from muse_keras.tables.item_table import blocks
from muse_tools.datasets import item_text
from muse_tools.datasets.errors import DataError
from muse_tools.datasets.item_content import ItemContent
from tfx_pipeline.components.artifacts import EMBEDDINGS_DIR
from tfx_pipeline.components.item_content_gen.executor import CONTENT_DIR
from tfx_pipeline.components.item_embedder import output, report
from tfx_pipeline.scl import embedding
from tfx_pipeline.tfx_internals import BeamExecutor, artifact_utils, path_utils

__all__ = ["Executor"]


# Of a unit vector computed in float32.
_NORM_TOLERANCE = 1e-3


class Executor(BeamExecutor):
    """Embeds blocks of items in parallel and reports on the result."""

    def Do(
        self,
        input_dict: dict[str, list],
        output_dict: dict[str, list],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes Parquet files in the layout of the raw embedding table.

        Args:
            input_dict: ``model`` and ``item_content``, one artifact each.
            output_dict: ``embeddings``, one artifact.
            exec_properties: as in `ItemEmbedderSpec`.

        Raises:
            DataError: ``NOT_UNIT``: the model returns something else than
                unit vectors and zeros; ``NO_VECTORS``: no item has a vector.
        """
        model = path_utils.serving_model_path(
            artifact_utils.get_single_uri(input_dict["model"])
        )
        content_dir = os.path.join(
            artifact_utils.get_single_uri(input_dict["item_content"]),
            CONTENT_DIR,
        )
        artifact = artifact_utils.get_single_instance(output_dict["embeddings"])
        folder = pathlib.Path(artifact.uri) / EMBEDDINGS_DIR
        content = ItemContent.open(content_dir)
        size = exec_properties["block_items"]
        parts = list(enumerate(blocks(len(content), size)))
        report_file = pathlib.Path(artifact.uri) / output.REPORT_FILE
        with self.beam_pipeline() as pipeline:
            _ = (
                pipeline
                | "Blocks"
                >> beam.Create(
                    [(number, rows.start, rows.stop) for number, rows in parts]
                )
                | "Spread" >> beam.Reshuffle()
                | "Embed"
                >> beam.ParDo(
                    _EmbedBlock(model, content_dir, str(folder), len(parts))
                )
                | "AllBlocks" >> beam.combiners.ToList()
                | "Report" >> beam.Map(_write_report, str(report_file))
            )
        found = json.loads(report_file.read_text(encoding="utf-8"))
        sample = (
            _sample(content, _load(model)) if found["with_vector"] else None
        )
        output.finish(artifact, found, sample)


class _EmbedBlock(beam.DoFn):
    """Embeds one block of items and writes its file."""

    def __init__(
        self, model: str, content_dir: str, folder: str, total: int
    ) -> None:
        self._model = model
        self._content_dir = content_dir
        self._folder = folder
        self._total = total
        # One model per process, however many threads.
        self._shared = shared.Shared()

    def setup(self) -> None:
        """Opens the content and loads the model."""
        self._content = ItemContent.open(self._content_dir)
        self._embed = self._shared.acquire(lambda: _load(self._model))

    def process(
        self, element: tuple[int, int, int]
    ) -> Iterator[report.BlockReport]:
        """Embeds rows; writing again replaces the same file."""
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
        output.write_codes(
            pathlib.Path(self._folder),
            number,
            self._total,
            np.concatenate(ids),
            all_codes,
        )
        yield report.BlockReport.of(all_codes, stop - start)


def _write_report(blocks_found: list[report.BlockReport], path: str) -> None:
    pathlib.Path(path).write_text(
        json.dumps(report.merge(blocks_found)), encoding="utf-8"
    )


def _load(model: str) -> Any:
    # TensorFlow is loaded where it is used, in the worker.
    from tfx_pipeline.scl import export

    return export.load_items_embedder(model)


def _check_unit(
    item_ids: npt.NDArray[np.int64], vectors: npt.NDArray[np.float32]
) -> npt.NDArray[np.bool_]:
    """Returns which rows have a vector; all others must be zero."""
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
    """Returns vectors of items taken evenly, those that have one."""
    count = min(len(content), output.SAMPLE_ITEMS)
    rows = np.unique(
        np.linspace(0, len(content) - 1, count).round().astype(np.int64)
    )
    vectors = np.concatenate(
        [
            embed(content.features(part))
            for part in np.array_split(rows, -(-len(rows) // 1024))
        ]
    )
    return vectors[np.any(vectors, axis=1)]
