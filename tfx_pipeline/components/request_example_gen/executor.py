"""Work of RequestExampleGen."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

import apache_beam as beam
import pyarrow as pa
from absl import logging
from tfx.components.util import examples_utils
from tfx.dsl.components.base import base_beam_executor
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils

from tfx_pipeline import features
from tfx_pipeline.data import raw_tables
from tfx_pipeline.data.errors import DataError
from tfx_pipeline.transforms import arrow_batches, request_join

__all__ = ["COUNTS_FILE", "Executor", "check_counts"]

COUNTS_FILE = "counts.json"
_SPLITS = {
    features.TRAIN_SPLIT: (
        raw_tables.TRAIN_SAMPLES,
        raw_tables.TRAIN_USER_FEATURES,
    ),
    features.EVAL_SPLIT: (
        raw_tables.TEST_SAMPLES,
        raw_tables.TEST_USER_FEATURES,
    ),
}


class Executor(base_beam_executor.BaseBeamExecutor):
    """Runs the join and accounts for every row."""

    def Do(
        self,
        input_dict: dict[str, list],
        output_dict: dict[str, list],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes Examples, rejected rows and counts.

        Args:
            input_dict: empty.
            output_dict: ``examples``, one artifact.
            exec_properties: as in `RequestExampleGenSpec`.

        Raises:
            DataError: a table is missing, unreadable, of another schema, or
                too many rows were rejected.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        tables = raw_tables.RawTables.open(exec_properties["raw_dir"])
        tables.check()

        def paths(name: str) -> list[str]:
            return [str(path) for path in tables[name].paths]

        everything = [
            path for name in raw_tables.SCHEMAS for path in paths(name)
        ]
        options = request_join.JoinOptions(
            max_candidates=exec_properties["max_candidates"],
            partitions=request_join.choose_partitions(
                everything, exec_properties["join_partitions"]
            ),
        )
        examples = artifact_utils.get_single_instance(output_dict["examples"])
        rejected_dir = pathlib.Path(exec_properties["rejected_dir"])
        fresh_dir = rejected_dir.with_name(f".{rejected_dir.name}.tmp")
        shutil.rmtree(fresh_dir, ignore_errors=True)
        fresh_dir.mkdir(parents=True)
        with self._make_beam_pipeline() as pipeline:
            joined = request_join.join_requests(
                pipeline,
                samples={k: paths(v[0]) for k, v in _SPLITS.items()},
                users={k: paths(v[1]) for k, v in _SPLITS.items()},
                items=paths(raw_tables.ITEM_FEATURES),
                embeddings=paths(raw_tables.EMBEDDINGS),
                options=options,
            )
            for split, rows in joined.examples.items():
                prefix = os.path.join(
                    examples.uri, f"Split-{split}", "data_tfrecord"
                )
                _ = (
                    rows
                    | f"Shuffle[{split}]" >> beam.Reshuffle()
                    | f"Write[{split}]"
                    >> beam.io.WriteToTFRecord(prefix, file_name_suffix=".gz")
                )
            _ = (
                joined.rejected
                | "GroupRejected" >> beam.GroupByKey()
                | "WriteRejected" >> beam.Map(_write_rejected, str(fresh_dir))
            )
        examples.split_names = artifact_utils.encode_split_names(list(_SPLITS))
        examples_utils.set_payload_format(
            examples, example_gen_pb2.PayloadFormat.FORMAT_TF_EXAMPLE
        )
        counts = _counts(pipeline.result)
        (fresh_dir / COUNTS_FILE).write_text(
            json.dumps(counts, indent=2, sort_keys=True) + "\n",
            encoding="utf-8",
        )
        shutil.rmtree(rejected_dir, ignore_errors=True)
        fresh_dir.rename(rejected_dir)
        logging.info("Row counts: %s", counts)
        check_counts(
            counts, exec_properties["max_rejected_fraction"], rejected_dir
        )


def check_counts(
    counts: Mapping[str, int],
    max_rejected_fraction: float,
    rejected_dir: pathlib.Path,
) -> None:
    """Checks that every impression is accounted for and few were rejected.

    Args:
        counts: counters of the join, ``read/…``, ``joined/…``,
            ``rejected/<table>/<reason>``.
        max_rejected_fraction: share of rejected impressions that is too much.
        rejected_dir: where the rejected rows are, for the message.

    Raises:
        DataError: ``LOST_ROWS``, ``EMPTY_SPLIT`` or ``TOO_MANY_REJECTED``.
    """
    for split in _SPLITS:
        read = counts.get(f"read/{split}_samples", 0)
        joined = counts.get(f"joined/{split}_impressions", 0)
        prefix = f"rejected/{split}_samples/"
        reasons = {
            key[len(prefix) :]: value
            for key, value in counts.items()
            if key.startswith(prefix)
        }
        rejected = sum(reasons.values())
        if read != joined + rejected:
            raise DataError(
                "LOST_ROWS",
                f"{split}: {read:,} impressions read, {joined:,} joined and "
                f"{rejected:,} rejected do not add up.",
                "this is a defect of the join; please report it.",
            )
        worst = ", ".join(
            f"{value:,} {reason}"
            for reason, value in sorted(
                reasons.items(), key=lambda item: -item[1]
            )
        )
        if not joined:
            raise DataError(
                "EMPTY_SPLIT",
                f"{split}: none of {read:,} impressions could be joined"
                f"{': ' + worst if worst else ''}.",
                "check that the tables belong together with "
                "`muse data inspect`.",
            )
        if rejected > max_rejected_fraction * read:
            raise DataError(
                "TOO_MANY_REJECTED",
                f"{split}: {rejected:,} of {read:,} impressions rejected "
                f"({worst}); at most {max_rejected_fraction:.2%} allowed.",
                f"look at {rejected_dir}, or raise data.max_rejected_fraction.",
            )


def _write_rejected(group: tuple[str, Iterable[bytes]], folder: str) -> None:
    table, parts = group
    # Rows rejected at different points of the join carry different columns.
    by_schema: dict[tuple[str, ...], list[pa.RecordBatch]] = {}
    for part in parts:
        batch = arrow_batches.deserialize(part)
        by_schema.setdefault(tuple(batch.schema.names), []).append(batch)
    for number, batches in enumerate(by_schema.values()):
        name = f"{table}-{number}.parquet"
        raw_tables.write_table(
            pathlib.Path(folder) / name, pa.Table.from_batches(batches)
        )


def _counts(result: beam.runners.runner.PipelineResult) -> dict[str, int]:
    matching = beam.metrics.MetricsFilter().with_namespace(
        request_join.NAMESPACE
    )
    counters = result.metrics().query(matching)["counters"]
    totals: dict[str, int] = {}
    for counter in counters:
        name = counter.key.metric.name
        totals[name] = totals.get(name, 0) + counter.result
    return totals
