"""SearchExampleGen: converts search events to Examples, split by time."""

import os
from collections.abc import Mapping

import apache_beam as beam
import numpy as np
import pyarrow.parquet as pq
from tfx.v1.dsl.components import (
    BeamComponentParameter,
    InputArtifact,
    OutputArtifact,
    Parameter,
    component,
)

from muse_tools.datasets import parquet_files, search_tables, text_features
from muse_tools.datasets.errors import DataError
from muse_tools.datasets.item_content import ItemContent
from muse_tools.datasets.object_paths import source
from tfx_pipeline.components import example_gen, rejected_rows
from tfx_pipeline.components.artifacts import CONTENT_DIR, ItemContentArtifact
from tfx_pipeline.tfx_internals import standard_artifacts
from tfx_pipeline.transforms import search_join, steps


@component(use_beam=True)
def SearchExampleGen(
    item_content: InputArtifact[ItemContentArtifact],
    examples: OutputArtifact[standard_artifacts.Examples],
    raw_dir: Parameter[str],
    raw_fingerprint: Parameter[str],
    rejected_dir: Parameter[str],
    eval_fraction: Parameter[float],
    text_encoder: Parameter[str] = "",
    max_rejected_fraction: Parameter[float] = 0.01,
    beam_pipeline: BeamComponentParameter[beam.Pipeline] = None,
) -> None:
    """Converts search events to Examples with Beam.

    Args:
        item_content: the items that events may contain.
        examples: receives the splits ``train`` and ``eval``; the newest events
            are ``eval``.
        raw_dir: directory of the raw tables; ``search_events`` is read.
        raw_fingerprint: changes when the table or the file of the text
            encoder changes.
        rejected_dir: directory for rejected rows, as Parquet with a reason,
            and the row counts.
        eval_fraction: share of the events (the newest) in ``eval``.
        text_encoder: encoder of texts, see `text_features.load_encoder`.
        max_rejected_fraction: share of rejected events above which the run
            fails.
        beam_pipeline: made by TFX.

    Raises:
        DataError: the table is missing, cannot be read, has another schema,
            does not fit the item content or cannot be split by time, or too
            many rows were rejected.
    """
    content_dir = os.path.join(item_content.uri, CONTENT_DIR)
    table = search_tables.open_table(raw_dir, search_tables.SEARCH_EVENTS)
    widths = query_widths(table, ItemContent.open(content_dir), text_encoder)
    first = first_eval_time(table, eval_fraction)
    shards = steps.partitions_for(_decoded_bytes(table))

    def join(
        pipeline: beam.Pipeline,
        outputs: Mapping[str, str],
        shuffle_dir: str | None,
    ) -> steps.Left:
        return search_join.write_search_examples(
            pipeline,
            search_join.SearchJoin(
                table,
                widths,
                text_encoder,
                content_dir,
                first,
                shards,
                shuffle_dir,
            ),
            outputs,
        )

    counts = example_gen.run_join(beam_pipeline, join, examples, rejected_dir)
    written = [counts.get(f"written/{s}_events", 0) for s in example_gen.SPLITS]
    rejected_rows.check(
        counts,
        label=table.name,
        rows="events",
        table=table.name,
        used=sum(written),
        limit=max_rejected_fraction,
        option="scl.max_rejected_fraction",
        rejected_dir=rejected_dir,
    )
    if not all(written):
        raise DataError(
            "EMPTY_SPLIT",
            f"{table.name}: {written[0]:,} events in train, "
            f"{written[1]:,} in eval. Expected: some in both.",
            "add events, or change scl.eval_fraction.",
        )


def query_widths(
    table: search_tables.SearchTable,
    content: ItemContent,
    text_encoder: str,
) -> dict[str, int]:
    """Returns the width of every vector modality of the queries.

    Modalities that items also have must have the width of the items' vectors.

    Raises:
        DataError: ``NO_USABLE_ROWS`` if there are no vectors,
            ``DIFFERENT_ENCODERS`` if the texts of queries and items would be
            encoded differently.
    """
    widths = table.widths(declared=content.modalities)
    if table.text and search_tables.TEXT in content.modalities:
        encoder = text_features.load_encoder(text_encoder)
        made_by = content.manifest["encoder"]
        width = content.modalities[search_tables.TEXT]
        if made_by != encoder.name and (made_by or width != encoder.width):
            raise DataError(
                "DIFFERENT_ENCODERS",
                f"modality text of the items is {width} wide and made by "
                f"{made_by or 'another encoder'}. Expected: as the queries', "
                f"{encoder.width} wide and made by {encoder.name}.",
                "encode both with the same scl.text_encoder.",
            )
    return widths


def first_eval_time(
    table: search_tables.SearchTable, eval_fraction: float
) -> int:
    """Returns the time at which split ``eval`` begins.

    Events with the same time stay in one split, so the share may differ from
    ``eval_fraction``. All events of ``train`` are older than those of ``eval``.

    Raises:
        DataError: ``NO_TIME_SPLIT`` if all events have the same time.
    """
    times = np.concatenate(
        [
            batch.column(0).drop_null().to_numpy()
            for batch in table.rows.iter_batches([search_tables.TIME])
        ]
    )
    values, counts = np.unique(times, return_counts=True)
    if len(values) < 2:
        raise DataError(
            "NO_TIME_SPLIT",
            f"table {table.name}: {len(times):,} events of {len(values)} "
            "distinct time. Expected: two times or more, since the newest "
            "events measure what was learned from the older ones.",
            "fill in column time (seconds).",
        )
    # Shares of the events from each of values[1:] on: both splits have events.
    share = counts[::-1].cumsum()[::-1][1:] / len(times)
    return int(values[1:][np.argmin(np.abs(share - eval_fraction))])


def _decoded_bytes(table: search_tables.SearchTable) -> int:
    """Returns the size of the table in memory, from the files' footers."""
    return sum(
        size
        for path in table.rows.paths
        for _, size in parquet_files.decoded_bytes(
            pq.read_metadata(source(path)), table.rows.schema
        )
    )
