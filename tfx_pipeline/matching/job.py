"""Makes, evaluates and saves one retrieval model, in a child process.

`process` runs ``python -m tfx_pipeline.matching.job JOB.json`` with
``TF_USE_LEGACY_KERAS=1``. Lines on standard output are progress.
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from muse_keras.tables import ItemTable
from serving.files import write_json
from tfx_pipeline.matching import clicks as clicks_lib
from tfx_pipeline.matching import evaluation, factorized, tuning
from tfx_pipeline.matching.index import Matcher
from tfx_pipeline.matching.settings import (
    CLICKS_FILE,
    EVALUATION_FILE,
    Job,
    Scoring,
)

Report = Callable[[str], None]

_WEIGHTS = ("half_life", "popularity_weight", "repeat_weight")
_BATCH_USERS = 64


def run(job: Job, report: Report) -> dict[str, Any]:
    """Makes and saves the model and its evaluation, which it returns.

    Raises:
        ValueError: no item has a vector.
    """
    table = ItemTable.open(job.item_table)
    item_ids, vectors = item_vectors(table)
    if not len(item_ids):
        raise ValueError(
            f"none of the {table.num_items:,} items has a vector: there is "
            "nothing to match with."
        )
    report(
        f"{len(item_ids):,} of {table.num_items:,} items have a vector, "
        f"{vectors.nbytes / 2**20:,.0f} MiB"
    )
    train = clicks_lib.read_clicks(
        job.train_files, job.tune_users, job.max_behaviors, part=1
    )
    counts = _counts(item_ids, train.item_ids)
    matcher = Matcher(
        item_ids,
        vectors,
        popularity(counts),
        num_candidates=job.num_candidates,
        max_behaviors=job.max_behaviors,
        scoring=tuning.START,
    )
    scoring, tried = _choose(job, matcher, train, item_ids)
    matcher.assign_popularity(popularity(counts))
    matcher.assign(scoring)
    report(
        f"half life {scoring.half_life:g} behaviors, weight of popularity "
        f"{scoring.popularity_weight:g}, of repeats {scoring.repeat_weight:g}"
    )
    result = {
        "num_items": len(item_ids),
        "items_without_vector": table.num_items - len(item_ids),
        "num_candidates": matcher.num_candidates,
        "max_behaviors": job.max_behaviors,
        "scoring": {name: getattr(scoring, name) for name in _WEIGHTS},
        "tried": tried,
        **_evaluate(job, matcher, scoring, counts, item_ids, vectors),
    }
    for name, values in result["recall"].items():
        report(evaluation.as_line(name, values))
    for name, by_size in result["factorized_top_k"].items():
        values = {k: {"recall": value} for k, value in by_size.items()}
        report(evaluation.as_line(f"{name} alone", values))
    tf.saved_model.save(matcher, job.model_dir, signatures=matcher.signatures())
    evaluation_dir = pathlib.Path(job.evaluation_dir)
    write_json(evaluation_dir / EVALUATION_FILE, result)
    clicked = np.flatnonzero(counts)
    np.savez(
        evaluation_dir / CLICKS_FILE,
        item_ids=item_ids[clicked],
        clicks=counts[clicked],
    )
    return result


def item_vectors(
    table: ItemTable,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Returns ids (n,) and unit vectors (n, D) of items that have a vector."""
    inverse_norms = table.inverse_norms()
    rows = np.flatnonzero(inverse_norms)
    vectors = np.empty((len(rows), table.dim), np.float32)
    for start in range(0, len(rows), 1 << 16):
        some = rows[start : start + (1 << 16)]
        np.multiply(
            table.codes[some],
            inverse_norms[some, np.newaxis],
            out=vectors[start : start + len(some)],
        )
    return np.asarray(table.item_ids)[rows - 1], vectors


def popularity(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Returns log(1 + count), divided by its maximum; 0 without clicks."""
    logs = np.log1p(counts)
    return (logs / max(float(logs.max()), 1e-9)).astype(np.float32)


def recommend(
    matcher: Matcher, histories: Sequence[npt.NDArray[np.int64]]
) -> npt.NDArray[np.int64]:
    """Returns the item ids of the answers for users, int64 (U, K)."""
    answers = np.empty((len(histories), matcher.num_candidates), np.int64)
    for start, ids in _batches(histories):
        found = matcher.recommend(ids)["candidate_item_ids"].numpy()
        answers[start : start + len(found)] = found
    return answers


def _batches(
    histories: Sequence[npt.NDArray[np.int64]],
) -> Iterator[tuple[int, tf.Tensor]]:
    """Yields start positions and batches of padded histories."""
    for start in range(0, len(histories), _BATCH_USERS):
        some = histories[start : start + _BATCH_USERS]
        ids = np.zeros((len(some), max(map(len, some))), np.int64)
        for row, history in zip(ids, some, strict=True):
            row[: len(history)] = history
        yield start, tf.constant(ids)


def _counts(
    item_ids: npt.NDArray[np.int64], clicked: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    place = np.minimum(np.searchsorted(item_ids, clicked), len(item_ids) - 1)
    known = item_ids[place] == clicked
    return np.bincount(place[known], minlength=len(item_ids))


def _choose(
    job: Job,
    matcher: Matcher,
    train: clicks_lib.Clicks,
    item_ids: npt.NDArray[np.int64],
) -> tuple[Scoring, list[dict[str, float]]]:
    """Chooses the scoring on one half of the train users.

    Popularity is counted on the other half, because it would look too good on
    the clicks on which it was counted.
    """
    fixed = {
        name: value
        for name in _WEIGHTS
        if (value := getattr(job, name)) is not None
    }
    histories, users, clicked = train.sampled()
    if len(fixed) == len(_WEIGHTS) or not len(clicked):
        return tuning.choose(lambda _: 0.0, fixed)[0], []
    others = clicks_lib.half_of(clicks_lib.mixed(train.user_ids)) == 0
    matcher.assign_popularity(
        popularity(_counts(item_ids, train.item_ids[others]))
    )
    ks = evaluation.choose_ks(matcher.num_candidates)

    def measure(scoring: Scoring) -> float:
        matcher.assign(scoring)
        answers = recommend(matcher, histories)
        return float(evaluation.hits(answers, users, clicked, ks).mean())

    return tuning.choose(measure, fixed)


def _evaluate(
    job: Job,
    matcher: Matcher,
    scoring: Scoring,
    counts: npt.NDArray[np.int64],
    item_ids: npt.NDArray[np.int64],
    vectors: npt.NDArray[np.float32],
) -> dict[str, Any]:
    held_out = clicks_lib.read_clicks(
        job.eval_files, job.eval_users, job.max_behaviors
    )
    histories, users, clicked = held_out.sampled()
    ks = evaluation.choose_ks(matcher.num_candidates)
    queries = np.concatenate(
        [matcher.queries(ids).numpy() for _, ids in _batches(histories)]
        or [np.zeros((0, vectors.shape[1] + 1), np.float32)]
    )
    popular = evaluation.popular_first(item_ids, counts, ks[-1])
    everyone = np.broadcast_to(popular, (len(histories), len(popular)))
    known = np.isin(clicked, item_ids)
    share_known = float(known.mean()) if len(known) else float("nan")

    def recall(answers: npt.NDArray[np.int64]) -> dict[str, Any]:
        found = evaluation.hits(answers, users, clicked, ks)
        return evaluation.recall(found, users, ks, job.seed)

    served = recall(recommend(matcher, histories))
    matcher.assign(dataclasses.replace(scoring, vector_weight=0.0))
    without_vectors = recall(recommend(matcher, histories))
    matcher.assign(scoring)
    return {
        "users": len(histories),
        "clicks": len(clicked),
        "clicks_without_vector": int((~known).sum()),
        "users_without_known_behavior": int((~queries[:, :-1].any(1)).sum()),
        "recall": {
            "matching": served,
            "matching without vectors": without_vectors,
            "popularity": recall(everyone),
            "random": evaluation.random_recall(len(item_ids), share_known, ks),
        },
        "factorized_top_k": {
            "user vector": factorized.factorized_recall(
                item_ids, vectors, queries[:, :-1], users, clicked, ks
            ),
            "user vector and popularity": factorized.factorized_recall(
                item_ids,
                np.concatenate([vectors, popularity(counts)[:, None]], axis=1),
                queries,
                users,
                clicked,
                ks,
            ),
        },
    }


def main(arguments: Sequence[str]) -> None:
    """Runs the job in a file and prints its progress."""

    def report(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    run(Job.read(pathlib.Path(arguments[0])), report)


if __name__ == "__main__":
    main(sys.argv[1:])
