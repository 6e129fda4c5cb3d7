"""TextEmbedder: embeds item texts as int8 codes, without training."""

import json
import os
import pathlib
import tempfile
from collections.abc import Iterable, Iterator

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tfx.v1.dsl.components import (
    BeamComponentParameter,
    InputArtifact,
    OutputArtifact,
    Parameter,
    component,
)

from muse_keras.tables.array_blocks import blocks
from muse_tools.datasets import item_text, search_tables
from muse_tools.datasets.errors import DataError
from muse_tools.datasets.item_content import ItemContent
from schemas.hashing import stable_ids
from serving.files import appearing, write_json
from tfx_pipeline.components import item_embeddings
from tfx_pipeline.components.artifacts import (
    CONTENT_DIR,
    EMBEDDINGS_DIR,
    ItemContentArtifact,
    ItemEmbeddingsArtifact,
)
from tfx_pipeline.transforms import arrow_batches, shuffle_files, steps

LEARNED_TEXTS = 1 << 18
"""Distinct texts that the decomposition learns from, at most."""

_BATCH = 1 << 13
_ROW = "row"
_SAMPLE_FILE = "sample.npy"
_Block = tuple[int, Iterable[shuffle_files.Sent]]
_Identified = list[tuple[int, str]]


@component(use_beam=True)
def TextEmbedder(
    item_content: InputArtifact[ItemContentArtifact],
    embeddings: OutputArtifact[ItemEmbeddingsArtifact],
    raw_dir: Parameter[str],
    raw_fingerprint: Parameter[str],
    seed: Parameter[int],
    block_items: Parameter[int] = 1 << 16,
    beam_pipeline: BeamComponentParameter[beam.Pipeline] = None,
) -> None:
    """Embeds items by a decomposition of their texts (`item_text`).

    The decomposition is learned from all distinct texts, or from the
    `LEARNED_TEXTS` with the smallest ids (`stable_id`).

    Args:
        item_content: the items.
        embeddings: receives Parquet files in the layout of the raw embedding
            table, and a report.
        raw_dir: directory of the raw tables, for the texts themselves.
        raw_fingerprint: changes when the tables change.
        seed: seed of the randomized decomposition.
        block_items: items per Beam element and per Parquet file.
        beam_pipeline: made by TFX.

    Raises:
        DataError: ``NO_TEXT``: the table has no texts; ``NO_VECTORS``: no item
            has a vector.
    """
    content_dir = os.path.join(item_content.uri, CONTENT_DIR)
    root = pathlib.Path(embeddings.uri)
    root.mkdir(parents=True, exist_ok=True)
    table = search_tables.open_table(raw_dir, search_tables.ITEM_CONTENT)
    if table.text is None:
        raise DataError(
            "NO_TEXT",
            f"table {table.name} has no column {search_tables.TEXT}, which "
            "item_embeddings: text_svd embeds.",
            "write the items' texts there, or set item_embeddings to learned.",
        )
    names = (search_tables.ITEM_ID, table.text)
    schema = pa.schema([table.rows.schema.field(name) for name in names])
    paths = {"": [str(path) for path in table.rows.paths]}
    groups = steps.row_groups(table.name, schema, paths)
    with tempfile.TemporaryDirectory(prefix=".texts", dir=root) as temporary:
        with (
            shuffle_files.directory_for(
                beam_pipeline.runner, temporary
            ) as shuffle_dir,
            beam_pipeline as pipeline,
        ):
            read = _ReadTexts(shuffle_dir, content_dir, schema, block_items)
            texts = (
                pipeline
                | "RowGroups" >> beam.Create(groups, reshuffle=True)
                | "Read" >> steps.step(read)
            ).rows | "Blocks" >> beam.GroupByKey()
            projection = (
                texts
                | "Texts"
                >> beam.ParDo(_DistinctTexts(content_dir, block_items))
                | "Choose" >> beam.CombineGlobally(_SmallestIds())
                | "Learn" >> beam.Map(item_text.TextProjection, seed)
            )
            embed = _EmbedTexts(content_dir, block_items, root / EMBEDDINGS_DIR)
            _ = (
                texts
                | "Embed"
                >> beam.ParDo(embed, beam.pvalue.AsSingleton(projection))
                | "AllBlocks" >> beam.combiners.ToList()
                | "Report" >> beam.Map(_write_report, temporary)
            )
        folder = pathlib.Path(temporary)
        found = json.loads(
            (folder / item_embeddings.REPORT_FILE).read_text(encoding="utf-8")
        )
        sample = np.load(folder / _SAMPLE_FILE)
    item_embeddings.finish(embeddings, found, sample)


class _ReadTexts(steps.Step):
    """Reads a row group, and sends texts to the block of their item."""

    def __init__(
        self,
        shuffle_dir: str | None,
        content_dir: str,
        schema: pa.Schema,
        block_items: int,
    ) -> None:
        super().__init__(shuffle_dir)
        self._content_dir = content_dir
        self._schema = schema
        self._block_items = block_items

    def setup(self) -> None:
        self._content = ItemContent.open(self._content_dir)

    def send(self, element: steps.RowGroup) -> Iterator[steps.Sent]:
        """Yields rows of the content with positions and texts, by block."""
        for position, batch in steps.read_row_group(element, self._schema):
            ids = batch.column(0).fill_null(0).to_numpy(zero_copy_only=False)
            rows = self._content.rows_of(ids)
            sent = pa.RecordBatch.from_arrays(
                [
                    pa.array(rows),
                    pa.array(np.arange(position, position + len(rows))),
                    pa.array(search_tables.texts(batch.column(1)), pa.string()),
                ],
                names=[_ROW, steps.POSITION, search_tables.TEXT],
            )
            known, _ = arrow_batches.split_by_mask(sent, rows >= 0)
            if known.num_rows:
                of_block = rows[rows >= 0] // self._block_items
                for number, part in arrow_batches.split(known, of_block):
                    yield "rows", number, part


class _OfBlocks(beam.DoFn):
    """A step over the texts of blocks of items."""

    def __init__(self, content_dir: str, block_items: int) -> None:
        self._content_dir = content_dir
        self._block_items = block_items

    def setup(self) -> None:
        self._content = ItemContent.open(self._content_dir)

    def _texts(self, element: _Block) -> tuple[int, list[str]]:
        """Returns the block's first row, and the text of each of its items.

        If an item has several rows, the first one with a text is used.
        """
        number, sent = element
        start = number * self._block_items
        stop = min(start + self._block_items, len(self._content))
        found = [""] * (stop - start)
        rows = pa.Table.from_batches([*shuffle_files.read(sent)])
        columns = rows.sort_by(steps.POSITION).to_pydict()
        for row, text in zip(
            columns[_ROW], columns[search_tables.TEXT], strict=True
        ):
            found[row - start] = found[row - start] or text
        return start, found


class _DistinctTexts(_OfBlocks):
    """Yields the distinct texts of a block with their ids."""

    def process(self, element: _Block) -> Iterator[_Identified]:
        _, texts = self._texts(element)
        distinct = sorted(set(texts))
        ids = stable_ids(search_tables.TEXT, distinct)
        yield [*zip(ids.tolist(), distinct, strict=True)]


class _SmallestIds(beam.CombineFn):
    """Returns the distinct texts with the smallest ids."""

    def create_accumulator(self) -> _Identified:
        return []

    def add_input(
        self, accumulator: _Identified, element: _Identified
    ) -> _Identified:
        return self.compact(accumulator + element)

    def merge_accumulators(
        self, accumulators: Iterable[_Identified]
    ) -> _Identified:
        merged: _Identified = []
        for accumulator in accumulators:
            merged = self.compact(merged + accumulator)
        return merged

    def compact(self, accumulator: _Identified) -> _Identified:
        return sorted(set(accumulator))[:LEARNED_TEXTS]

    def extract_output(self, accumulator: _Identified) -> list[str]:
        return [text for _, text in self.compact(accumulator)]


class _EmbedTexts(_OfBlocks):
    """Embeds the texts of one block of items and writes its file."""

    def __init__(
        self, content_dir: str, block_items: int, folder: pathlib.Path
    ) -> None:
        super().__init__(content_dir, block_items)
        self._folder = folder

    def process(
        self, element: _Block, projection: item_text.TextProjection
    ) -> Iterator[
        tuple[int, item_embeddings.BlockReport, npt.NDArray[np.float32]]
    ]:
        """Embeds a block; a retry replaces the same file.

        Yields its number, its report, and vectors of sampled items.
        """
        start, texts = self._texts(element)
        rows = np.arange(start, start + len(texts))
        sampled = np.isin(
            rows, item_embeddings.sampled_rows(len(self._content))
        )
        codes, ids, sample = [], [], []
        for part in blocks(len(texts), _BATCH):
            vectors = projection.vectors(texts[part])
            has_vector = np.any(vectors, axis=1)
            ids.append(
                np.asarray(self._content.item_ids[rows[part]])[has_vector]
            )
            codes.append(item_text.quantize(vectors[has_vector]))
            sample.append(vectors[has_vector & sampled[part]])
        all_codes = np.concatenate(codes)
        item_embeddings.write_codes(
            self._folder,
            element[0],
            -(-len(self._content) // self._block_items),
            np.concatenate(ids),
            all_codes,
        )
        report = item_embeddings.BlockReport.of(all_codes, len(texts))
        yield element[0], report, np.concatenate(sample)


def _write_report(
    found: list[
        tuple[int, item_embeddings.BlockReport, npt.NDArray[np.float32]]
    ],
    folder: str,
) -> None:
    _, reports, samples = zip(
        *sorted(found, key=lambda block: block[0]), strict=True
    )
    root = pathlib.Path(folder)
    with appearing(root / _SAMPLE_FILE) as path, path.open("wb") as file:
        np.save(file, np.concatenate(samples))
    write_json(
        root / item_embeddings.REPORT_FILE, item_embeddings.merge([*reports])
    )
