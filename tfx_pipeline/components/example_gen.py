"""Code that the components that write Examples share."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import apache_beam as beam

from serving.files import replaced_folder
from tfx_pipeline import features
from tfx_pipeline.components import rejected_rows
from tfx_pipeline.tfx_internals import (
    artifact_utils,
    example_gen_pb2,
    examples_utils,
    types,
)
from tfx_pipeline.transforms import shuffle_files, steps, tfrecords

SPLITS = (features.TRAIN_SPLIT, features.EVAL_SPLIT)

_Join = Callable[[beam.Pipeline, Mapping[str, str], str | None], steps.Left]


def run_join(
    pipeline: beam.Pipeline,
    join: _Join,
    examples: types.Artifact,
    rejected_dir: str,
) -> dict[str, int]:
    """Runs a join that writes Examples, and keeps rejected rows.

    ``join`` gets the pipeline, the file prefix of each split and the folder for
    shuffle files. It adds its steps to the pipeline and returns what is left.

    Returns:
        The counts of the join.
    """
    outputs = {
        split: os.path.join(examples.uri, f"Split-{split}", "data_tfrecord")
        for split in SPLITS
    }
    with replaced_folder(rejected_dir) as folder:
        with (
            shuffle_files.directory_for(
                pipeline.runner, examples.uri
            ) as shuffle_dir,
            pipeline,
        ):
            left = join(pipeline, outputs, shuffle_dir)
            rejected_rows.write_left(left, folder)
        for path in outputs.values():
            # A runner that repeats the work of a killed worker leaves these.
            tfrecords.remove_unfinished(os.path.dirname(path))
        counts = rejected_rows.read_counts(folder)
    examples.split_names = artifact_utils.encode_split_names(list(SPLITS))
    examples_utils.set_payload_format(
        examples, example_gen_pb2.PayloadFormat.FORMAT_TF_EXAMPLE
    )
    return counts
