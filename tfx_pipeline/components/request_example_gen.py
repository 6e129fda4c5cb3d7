"""RequestExampleGen: joins raw tables into request-grouped Examples."""

from collections.abc import Mapping

import apache_beam as beam
from tfx.v1.dsl.components import (
    BeamComponentParameter,
    OutputArtifact,
    Parameter,
    component,
)

from muse_tools.datasets import raw_tables
from tfx_pipeline import features
from tfx_pipeline.components import example_gen, rejected_rows
from tfx_pipeline.tfx_internals import standard_artifacts
from tfx_pipeline.transforms import request_join, steps

_TABLES = {
    features.TRAIN_SPLIT: (
        raw_tables.TRAIN_SAMPLES,
        raw_tables.TRAIN_USER_FEATURES,
    ),
    features.EVAL_SPLIT: (
        raw_tables.TEST_SAMPLES,
        raw_tables.TEST_USER_FEATURES,
    ),
}


@component(use_beam=True)
def RequestExampleGen(
    examples: OutputArtifact[standard_artifacts.Examples],
    raw_dir: Parameter[str],
    raw_fingerprint: Parameter[str],
    rejected_dir: Parameter[str],
    max_candidates: Parameter[int],
    max_rejected_fraction: Parameter[float],
    join_partitions: Parameter[int] = 0,
    imported_embeddings: Parameter[bool] = True,
    beam_pipeline: BeamComponentParameter[beam.Pipeline] = None,
) -> None:
    """Joins the raw tables with Beam into request-grouped Examples.

    Args:
        examples: receives the splits ``train`` and ``eval`` (the raw ``test``
            tables).
        raw_dir: directory of the raw tables.
        raw_fingerprint: changes when the tables change, which invalidates the
            cache.
        rejected_dir: directory for rejected rows, as Parquet with a reason,
            and the row counts.
        max_candidates: most candidates of a request.
        max_rejected_fraction: share of rejected impressions above which the
            run fails.
        join_partitions: partitions of the join; 0: chosen by size.
        imported_embeddings: whether item vectors come from the raw table;
            otherwise that table may be missing.
        beam_pipeline: made by TFX.

    Raises:
        DataError: a table is missing, cannot be read or has another schema, or
            too many rows were rejected.
    """
    tables = raw_tables.RawTables.open(raw_dir)
    tables.check(imported_embeddings)

    def paths(name: str) -> list[str]:
        return [str(path) for path in tables[name].paths]

    if tables.declared.log:
        users = paths(raw_tables.USERS) if raw_tables.USERS in tables else []
        samples = {"": paths(raw_tables.IMPRESSIONS)}
        of_users = dict.fromkeys(example_gen.SPLITS, users)
    else:
        samples, of_users = (
            {split: paths(names[kind]) for split, names in _TABLES.items()}
            for kind in (0, 1)
        )
    files = request_join.RawFiles(
        samples=samples,
        users=of_users,
        events=paths(raw_tables.EVENTS) if tables.declared.log else [],
        items=paths(raw_tables.ITEM_FEATURES),
        embeddings=paths(raw_tables.EMBEDDINGS) if imported_embeddings else [],
        declared=tables.declared,
    )

    def join(
        pipeline: beam.Pipeline,
        outputs: Mapping[str, str],
        shuffle_dir: str | None,
    ) -> steps.Left:
        by_item, by_user = request_join.choose_partitions(files)
        options = request_join.JoinOptions(
            max_candidates=max_candidates,
            item_partitions=join_partitions or by_item,
            user_partitions=join_partitions or by_user,
            shuffle_dir=shuffle_dir,
        )
        return request_join.write_requests(pipeline, files, outputs, options)

    counts = example_gen.run_join(beam_pipeline, join, examples, rejected_dir)
    check_counts(counts, max_rejected_fraction, rejected_dir)


def check_counts(
    counts: Mapping[str, int],
    max_rejected_fraction: float,
    rejected_dir: str,
) -> None:
    """Checks that all impressions are counted and few were rejected.

    Raises:
        DataError: see `rejected_rows.check`.
    """
    for split in example_gen.SPLITS:
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
