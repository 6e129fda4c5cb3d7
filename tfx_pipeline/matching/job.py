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
from muse_tools.datasets.arrow_lists import find_sorted
from serving.files import write_json
from tfx_pipeline.matching import evaluation, factorized, probes, tuning
from tfx_pipeline.matching.clicks import OTHERS, Clicks
from tfx_pipeline.matching.index import Clustered, Exact, Items, Matcher
from tfx_pipeline.matching.settings import (
    CENTROIDS_FILE,
    CLICKS_FILE,
    CLUSTERS_PREFIX,
    EVALUATION_FILE,
    Job,
    Scoring,
)

Report = Callable[[str], None]

_WEIGHTS = ("half_life", "popularity_weight", "repeat_weight")
_BATCH_USERS = 64
_QUERIES = 100


def run(job: Job, report: Report) -> dict[str, Any]:
    """Makes and saves the model and its evaluation, which it returns.

    Raises:
        ValueError: no item has a vector.
    """
    table = ItemTable.open(job.item_table)
    items = Items(table)
    size = len(items.item_ids)
    if not size:
        raise ValueError(
            f"none of the {table.num_items:,} items has a vector: there is "
            "nothing to match with."
        )
    report(f"{size:,} of {table.num_items:,} items have a vector")
    train = Clicks.read(job.train_clicks)
    counts = train.counts_of(items.item_ids)
    index = make_index(job, items, popularity(counts))
    matcher = Matcher(
        items,
        index,
        max_behaviors=job.max_behaviors,
        scoring=tuning.START,
    )
    scoring, tried = _choose(job, matcher, train, items)
    index.assign_popularity(popularity(counts))
    matcher.assign(scoring)
    report(
        f"half life {scoring.half_life:g} behaviors, weight of popularity "
        f"{scoring.popularity_weight:g}, of repeats {scoring.repeat_weight:g}"
    )
    chosen: dict[str, Any] = {"kind": "exact"}
    held_out = Clicks.read(job.eval_clicks)
    if isinstance(index, Clustered):
        exact = factorized.exact_index(items, index.k, popularity(counts))
        chosen = _choose_probes(
            job, matcher, index, exact, items, train, held_out
        )
        report(
            f"{chosen['probes']:,} of {chosen['clusters']:,} clusters are "
            f"searched; they find {chosen['found_of_exact']:.4f} of the exact "
            "answers"
        )
    result = {
        "num_items": size,
        "items_without_vector": table.num_items - size,
        "num_candidates": matcher.num_candidates,
        "max_behaviors": job.max_behaviors,
        "scoring": {name: getattr(scoring, name) for name in _WEIGHTS},
        "tried": tried,
        "index": chosen,
        **_evaluate(job, matcher, scoring, counts, items, held_out),
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
        item_ids=items.item_ids[clicked],
        clicks=counts[clicked],
    )
    return result


def make_index(
    job: Job, items: Items, of_items: npt.NDArray[np.float32]
) -> Exact | Clustered:
    """Returns an index of items with popularity ``of_items`` float32 (N,)."""
    k = min(job.num_candidates, len(items.item_ids))
    if not job.clusters:
        return Exact(items, of_items, k)
    folder = pathlib.Path(job.clusters)
    clusters = np.concatenate(
        [np.load(file) for file in sorted(folder.glob(f"{CLUSTERS_PREFIX}*"))]
    )
    centroids = np.load(folder / CENTROIDS_FILE)
    return Clustered(items, of_items, k, clusters[items.rows - 1], centroids)


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


def _choose(
    job: Job,
    matcher: Matcher,
    train: Clicks,
    items: Items,
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
    matcher.index.assign_popularity(
        popularity(train.counts_of(items.item_ids, [OTHERS]))
    )
    ks = evaluation.choose_ks(matcher.num_candidates)

    def measure(scoring: Scoring) -> float:
        matcher.assign(scoring)
        answers = recommend(matcher, histories)
        return float(evaluation.hits(answers, users, clicked, ks).mean())

    return tuning.choose(measure, fixed)


def _choose_probes(
    job: Job,
    matcher: Matcher,
    index: Clustered,
    exact: Any,
    items: Items,
    train: Clicks,
    held_out: Clicks,
) -> dict[str, Any]:
    """Chooses how many clusters are searched, by users and vectors of items.

    What they find is measured on users who are held out, if there are any.
    """
    rng = np.random.default_rng(job.seed)
    places = rng.choice(len(items.item_ids), min(_QUERIES, len(items.rows)))
    vectors = np.pad(items.vectors(np.sort(places)), [(0, 0), (0, 1)])
    samples = [_queries(matcher, train.sampled()[0]), vectors]
    chosen = probes.choose(index, exact, samples, job.index_recall)
    unseen = _queries(matcher, held_out.sampled()[0][: job.tune_users])
    measured = unseen if len(unseen) else vectors
    wanted = probes.best_rows(exact, measured)
    return {
        "kind": "clustered",
        "clusters": index.num_clusters,
        "probes": chosen,
        "wanted": job.index_recall,
        "found_of_exact": probes.share_found(index, measured, wanted),
    }


def _queries(
    matcher: Matcher, histories: Sequence[npt.NDArray[np.int64]]
) -> npt.NDArray[np.float32]:
    """Returns the queries of users, float32 (U, D + 1)."""
    return np.concatenate(
        [matcher.queries(ids).numpy() for _, ids in _batches(histories)]
        or [np.zeros((0, matcher.dim + 1), np.float32)]
    )


def _evaluate(
    job: Job,
    matcher: Matcher,
    scoring: Scoring,
    counts: npt.NDArray[np.int64],
    items: Items,
    held_out: Clicks,
) -> dict[str, Any]:
    item_ids = items.item_ids
    histories, users, clicked = held_out.sampled()
    ks = evaluation.choose_ks(matcher.num_candidates)
    queries = _queries(matcher, histories)
    popular = evaluation.popular_first(item_ids, counts, ks[-1])
    everyone = np.broadcast_to(popular, (len(histories), len(popular)))
    places, known = find_sorted(item_ids, clicked)
    places[~known] = -1
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
        "factorized_top_k": _factorized(
            job, items, counts, queries, users, places, ks
        ),
    }


def _factorized(
    job: Job,
    items: Items,
    counts: npt.NDArray[np.int64],
    queries: npt.NDArray[np.float32],
    users: npt.NDArray[np.int64],
    places: npt.NDArray[np.int64],
    ks: Sequence[int],
) -> dict[str, Any]:
    """Returns the recall of one exact search, if the index is exact, too."""
    if job.clusters:
        return {}
    by_vector = factorized.exact_index(items, ks[-1])
    by_both = factorized.exact_index(items, ks[-1], popularity(counts))
    return {
        name: factorized.factorized_recall(index, of, users, places, ks)
        for name, index, of in (
            ("user vector", by_vector, queries[:, :-1]),
            ("user vector and popularity", by_both, queries),
        )
    }


def main(arguments: Sequence[str]) -> None:
    """Runs the job in a file and prints its progress."""

    def report(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    run(Job.read(pathlib.Path(arguments[0])), report)


if __name__ == "__main__":
    main(sys.argv[1:])
