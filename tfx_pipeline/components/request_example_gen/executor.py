"""Work of RequestExampleGen."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import pyarrow as pa
from absl import logging
from apache_beam.io.filesystems import FileSystems
from tfx.components.util import examples_utils
from tfx.dsl.components.base import base_beam_executor
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils

from tfx_pipeline import features
from tfx_pipeline.data import raw_tables
from tfx_pipeline.data.errors import DataError
from tfx_pipeline.transforms import exchange, request_join, requests

__all__ = ["COUNTS_FILE", "Executor", "check_counts"]

COUNTS_FILE = "counts.json"
_FILES = "data_tfrecord"
# These keep in memory what they shuffle.
_LOCAL_RUNNERS = (
    "DirectRunner",
    "BundleBasedDirectRunner",
    "SwitchingDirectRunner",
    "FnApiRunner",
    "PrismRunner",
)
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

        def by_split(position: int) -> dict[str, list[str]]:
            return {k: paths(v[position]) for k, v in _SPLITS.items()}

        files = request_join.RawFiles(
            samples=by_split(0),
            users=by_split(1),
            items=paths(raw_tables.ITEM_FEATURES),
            embeddings=paths(raw_tables.EMBEDDINGS),
        )
        examples = artifact_utils.get_single_instance(output_dict["examples"])
        outputs = {
            split: os.path.join(examples.uri, f"Split-{split}", _FILES)
            for split in _SPLITS
        }
        rejected_dir = pathlib.Path(exec_properties["rejected_dir"])
        fresh_dir = rejected_dir.with_name(f".{rejected_dir.name}.tmp")
        shutil.rmtree(fresh_dir, ignore_errors=True)
        fresh_dir.mkdir(parents=True)
        pipeline = self._make_beam_pipeline()
        with self._exchange_dir(pipeline.runner) as exchange_dir, pipeline:
            rejected = request_join.write_requests(
                pipeline,
                files,
                outputs,
                _options(files, exec_properties, exchange_dir),
            )
            _ = (
                rejected
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

    @contextlib.contextmanager
    def _exchange_dir(
        self, runner: beam.runners.PipelineRunner
    ) -> Iterator[str | None]:
        """Gives a folder for the batches between steps, if one is needed."""
        if type(runner).__name__ not in _LOCAL_RUNNERS:
            yield None
            return
        folder = os.path.join(self._get_tmp_dir(), "exchange")
        try:
            yield folder
        finally:
            if FileSystems.exists(folder):
                FileSystems.delete([folder])


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


def _options(
    files: request_join.RawFiles,
    exec_properties: dict[str, Any],
    exchange_dir: str | None,
) -> request_join.JoinOptions:
    """Returns how to join tables of this size."""
    requested = exec_properties["join_partitions"]
    by_item = {
        "samples": [path for paths in files.samples.values() for path in paths],
        "item_features": files.items,
        "embedding_ids": files.embeddings,
    }
    by_user = (
        request_join.choose_partitions({"user_features": paths})
        for paths in files.users.values()
    )
    return request_join.JoinOptions(
        max_candidates=exec_properties["max_candidates"],
        item_partitions=requested or request_join.choose_partitions(by_item),
        user_partitions=requested or max(by_user),
        exchange_dir=exchange_dir,
    )


def _write_rejected(
    group: tuple[str, Iterable[exchange.Parcel]], folder: str
) -> None:
    table, parcels = group
    # Rows rejected at different points of the join carry different columns.
    by_schema: dict[tuple[str, ...], list[pa.RecordBatch]] = {}
    for batch in exchange.unpack(parcels):
        by_schema.setdefault(tuple(batch.schema.names), []).append(batch)
    for number, names in enumerate(sorted(by_schema)):
        rows = pa.Table.from_batches(by_schema[names])
        raw_tables.write_table(
            pathlib.Path(folder) / f"{table}-{number}.parquet",
            rows.sort_by(requests.POSITION),
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
