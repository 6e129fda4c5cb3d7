"""What a retrieval job reads, made with Beam: clicks, and clusters of items."""

from __future__ import annotations

import dataclasses
import pathlib

import apache_beam as beam
import numpy as np
import tensorflow as tf
from apache_beam.io.filesystems import FileSystems

from muse_keras.tables import ItemTable
from muse_keras.tables.array_blocks import blocks
from serving.files import appearing
from tfx_pipeline import features
from tfx_pipeline.matching import clusters
from tfx_pipeline.matching.clicks import (
    NONE,
    TUNED,
    Clicks,
    User,
    half_of,
    mixed,
    smallest,
)
from tfx_pipeline.matching.settings import (
    CENTROIDS_FILE,
    CLUSTERS_PREFIX,
    Job,
)
from tfx_pipeline.training import input_fn

_SPEC = {
    name: tf.io.VarLenFeature(tf.int64)
    for name in (
        features.USER_ID,
        features.BEHAVIOR_ITEM_IDS,
        features.CANDIDATE_ITEM_IDS,
        features.CLICKS,
    )
}
_BATCH = 64
_ITEMS = 1 << 17


def write_inputs(
    pipeline: beam.Pipeline, job: Job, train_files: str, eval_files: str
) -> None:
    """Adds steps that write the files of a job.

    ``train_files`` and ``eval_files`` are patterns of request-grouped Examples.
    """
    for name, files, sample, target in (
        (
            "Train",
            train_files,
            Sample(job.tune_users, job.max_behaviors, TUNED),
            job.train_clicks,
        ),
        (
            "Eval",
            eval_files,
            Sample(job.eval_users, job.max_behaviors),
            job.eval_clicks,
        ),
    ):
        write_clicks(pipeline, name, files, sample, target)
    if job.clusters:
        write_clusters(pipeline, job.item_table, job.clusters, job.seed)


@dataclasses.dataclass(frozen=True)
class Sample:
    """Which users are sampled: those with clicks and the smallest hashes.

    Attributes:
        max_users: number of users.
        max_behaviors: number of newest behaviors of a history.
        half: 0 or 1, the half of the users to which they belong; None: any.
    """

    max_users: int
    max_behaviors: int
    half: int | None = None


def read_clicks(file: str, number: int, sample: Sample) -> Clicks:
    """Reads one file of Examples, the ``number``-th of its split."""
    items, halves = [NONE], [NONE]
    users: dict[int, User] = {}
    limit, position = 1 << 64, 0
    for batch in input_fn.request_dataset([file], _SPEC, _BATCH):
        arrays = {name: values.numpy() for name, values in batch.items()}
        clicked = arrays[features.CLICKS] == 1
        rows, columns = np.nonzero(clicked)
        item_ids = arrays[features.CANDIDATE_ITEM_IDS][rows, columns]
        hashes = mixed(arrays[features.USER_ID][:, 0])
        items.append(item_ids)
        halves.append(half_of(hashes)[rows])
        for row in np.flatnonzero(clicked.any(axis=1)):
            value = int(hashes[row])
            if value > limit or sample.half not in (None, int(half_of(value))):
                continue
            history = arrays[features.BEHAVIOR_ITEM_IDS][row]
            found = User(
                value,
                (number, position + int(row)),
                history[history != 0][-sample.max_behaviors :].copy(),
                item_ids[rows == row],
            )
            user = int(arrays[features.USER_ID][row, 0])
            before = users.get(user)
            users[user] = before.joined(found) if before else found
        position += len(hashes)
        if len(users) > 2 * sample.max_users:
            users = smallest(users, sample.max_users)
            limit = max(user.hash for user in users.values())
    ids, place = np.unique(np.concatenate(items), return_inverse=True)
    counts = np.zeros((len(ids), 2), np.int64)
    np.add.at(counts, (place, np.concatenate(halves)), 1)
    return Clicks(ids, counts, smallest(users, sample.max_users))


def write_clicks(
    pipeline: beam.Pipeline,
    name: str,
    file_pattern: str,
    sample: Sample,
    target: str,
) -> None:
    """Adds steps that write the `Clicks` of all files of a split."""
    (found,) = FileSystems.match([file_pattern])
    files = sorted(one.path for one in found.metadata_list)
    (
        pipeline
        | f"{name}/Files" >> beam.Create(list(enumerate(files)), reshuffle=True)
        | f"{name}/Read"
        >> beam.MapTuple(lambda number, file: read_clicks(file, number, sample))
        | f"{name}/Join"
        >> beam.CombineGlobally(
            lambda parts: Clicks().joined(parts, sample.max_users)
        )
        | f"{name}/Write" >> beam.Map(lambda clicks: clicks.write(target))
    )


def write_clusters(
    pipeline: beam.Pipeline, table_dir: str, folder: str, seed: int
) -> None:
    """Adds steps that write the cluster of each item, and writes centroids.

    ``folder`` receives `CENTROIDS_FILE` and, for each block of items, an array
    int32 of their clusters, -1 without a vector; names are in order of items.
    """
    table = ItemTable.open(table_dir)
    centroids = clusters.of_table(table, seed)
    if not len(centroids):
        return  # No item has a vector: the job says so.
    np.save(pathlib.Path(folder) / CENTROIDS_FILE, centroids)
    (
        pipeline
        | "Clusters/Items"
        >> beam.Create(
            [(b.start, b.stop) for b in blocks(table.num_items, _ITEMS)],
            reshuffle=True,
        )
        | "Clusters/Nearest"
        >> beam.Map(_write_nearest, table_dir, folder, centroids)
    )


def _write_nearest(
    block: tuple[int, int],
    table_dir: str,
    folder: str,
    centroids: np.ndarray,
) -> None:
    start, stop = block
    rows = slice(start + 1, stop + 1)
    vectors = clusters.unit_vectors(ItemTable.open(table_dir), rows)
    place = clusters.nearest(vectors, centroids)
    place[~vectors.any(axis=1)] = -1
    target = pathlib.Path(folder) / f"{CLUSTERS_PREFIX}{start:012d}.npy"
    with appearing(target) as file, file.open("wb") as out:
        np.save(out, place)
