"""Work of RequestExampleGen."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import apache_beam as beam

from muse_tools.datasets import raw_tables
from tfx_pipeline import features
from tfx_pipeline.components import rejected_rows
from tfx_pipeline.tfx_internals import (
    BeamExecutor,
    artifact_utils,
    example_gen_pb2,
    examples_utils,
)
from tfx_pipeline.transforms import exchange, request_join, steps

__all__ = ["Executor", "check_counts"]

_FILES = "data_tfrecord"
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
            input_dict: empty.
            output_dict: ``examples``, one artifact.
            exec_properties: as in `RequestExampleGenSpec`.

        Raises:
            DataError: a table is missing, unreadable, of another schema, or
                too many rows were rejected.
        """
        tables = raw_tables.RawTables.open(exec_properties["raw_dir"])
        imported = exec_properties["imported_embeddings"]
        tables.check(
            name
            for name in raw_tables.SCHEMAS
            if imported or name != raw_tables.EMBEDDINGS
        )

        def paths(name: str) -> list[str]:
            return [str(path) for path in tables[name].paths]

        def by_split(position: int) -> dict[str, list[str]]:
            return {k: paths(v[position]) for k, v in _SPLITS.items()}

        files = request_join.RawFiles(
            samples=by_split(0),
            users=by_split(1),
            items=paths(raw_tables.ITEM_FEATURES),
            embeddings=paths(raw_tables.EMBEDDINGS) if imported else [],
        )
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
                rejected = request_join.write_requests(
                    pipeline,
                    files,
                    outputs,
                    _options(files, exec_properties, exchange_dir),
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
        rejected_rows.check(
            counts,
            label=split,
            rows="impressions",
            table=f"{split}_samples",
            used=counts.get(f"joined/{split}_impressions", 0),
            limit=max_rejected_fraction,
            option="data.max_rejected_fraction",
            rejected_dir=rejected_dir,
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
