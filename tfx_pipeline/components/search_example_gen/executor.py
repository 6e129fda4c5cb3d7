"""Work of SearchExampleGen."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow.parquet as pq

from muse_tools.datasets import raw_tables, search_tables, text_features
from muse_tools.datasets.errors import DataError
from muse_tools.datasets.item_content import ItemContent
from tfx_pipeline import features
from tfx_pipeline.components import rejected_rows
from tfx_pipeline.components.item_content_gen.executor import CONTENT_DIR
from tfx_pipeline.tfx_internals import (
    BeamExecutor,
    artifact_utils,
    example_gen_pb2,
    examples_utils,
)
from tfx_pipeline.transforms import exchange, search_join, steps

__all__ = ["Executor", "first_eval_time", "query_widths"]

_FILES = "data_tfrecord"
_SPLITS = (features.TRAIN_SPLIT, features.EVAL_SPLIT)


class Executor(BeamExecutor):
    """Runs the join and accounts for every row."""

    def Do(
        self,
        input_dict: dict[str, list],
        output_dict: dict[str, list],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes Examples, rejected rows and counts.

        Args:
            input_dict: ``item_content``, one artifact.
            output_dict: ``examples``, one artifact.
            exec_properties: as in `SearchExampleGenSpec`.

        Raises:
            DataError: the table is missing, unreadable, of another schema,
                does not fit the item content, cannot be split by time, or too
                many rows were rejected.
        """
        content_dir = os.path.join(
            artifact_utils.get_single_uri(input_dict["item_content"]),
            CONTENT_DIR,
        )
        table = search_tables.open_table(
            exec_properties["raw_dir"], search_tables.SEARCH_EVENTS
        )
        text_encoder = exec_properties["text_encoder"]
        widths = query_widths(
            table, ItemContent.open(content_dir), text_encoder
        )
        first = first_eval_time(table, exec_properties["eval_fraction"])
        shards = steps.partitions_for(_decoded_bytes(table))
        examples = artifact_utils.get_single_instance(output_dict["examples"])
        outputs = {
            split: os.path.join(examples.uri, f"Split-{split}", _FILES)
            for split in _SPLITS
        }
        rejected_dir = pathlib.Path(exec_properties["rejected_dir"])
        pipeline = self.beam_pipeline()
        with rejected_rows.replaced(rejected_dir) as folder:
            with (
                exchange.directory_for(
                    pipeline.runner, self.temporary_dir()
                ) as exchange_dir,
                pipeline,
            ):
                rejected = search_join.write_search_examples(
                    pipeline,
                    search_join.SearchJoin(
                        table,
                        widths,
                        text_encoder,
                        content_dir,
                        first,
                        shards,
                        exchange_dir,
                    ),
                    outputs,
                )
                _ = (
                    rejected
                    | "GroupRejected" >> beam.GroupByKey()
                    | "WriteRejected"
                    >> beam.Map(steps.write_rejected, str(folder))
                )
            counts = steps.counts_of(pipeline.result)
            rejected_rows.write_counts(folder, counts)
        examples.split_names = artifact_utils.encode_split_names(list(_SPLITS))
        examples_utils.set_payload_format(
            examples, example_gen_pb2.PayloadFormat.FORMAT_TF_EXAMPLE
        )
        written = [counts.get(f"written/{s}_events", 0) for s in _SPLITS]
        rejected_rows.check(
            counts,
            label=table.name,
            rows="events",
            table=table.name,
            used=sum(written),
            limit=exec_properties["max_rejected_fraction"],
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

    What items have too is as wide as theirs.

    Args:
        table: the search events.
        content: what the items look like.
        text_encoder: what encodes the queries' texts.

    Raises:
        DataError: ``NO_USABLE_ROWS`` if there are no vectors,
            ``DIFFERENT_ENCODERS`` if texts of queries and items would not be
            encoded alike.
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
                f"{made_by or 'somebody else'}. Expected: as the queries', "
                f"{encoder.width} wide and made by {encoder.name}.",
                "encode both with the same scl.text_encoder.",
            )
    return widths


def first_eval_time(
    table: search_tables.SearchTable, eval_fraction: float
) -> int:
    """Returns where split ``eval`` begins.

    Events of one time stay together, so the share is met as nearly as the
    times allow; no event of ``train`` is newer than one of ``eval``.

    Args:
        table: the search events.
        eval_fraction: share of the events in ``eval``.

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
    # Share of the events from values[1:] on; never all, never none.
    share = counts[::-1].cumsum()[::-1][1:] / len(times)
    return int(values[1:][np.argmin(np.abs(share - eval_fraction))])


def _decoded_bytes(table: search_tables.SearchTable) -> int:
    """Returns how large the table is in memory, from the files' footers."""
    return sum(
        size
        for path in table.rows.paths
        for _, size in raw_tables.decoded_bytes(
            pq.read_metadata(path), table.rows.schema
        )
    )
