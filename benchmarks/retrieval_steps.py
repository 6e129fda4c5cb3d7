"""Our side of the `retrieval` benchmark, in a process with Keras 2."""

from __future__ import annotations

import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np

from benchmarks import harness
from benchmarks.remote import serve

DIM, K, QUERIES = 128, 500, 50
WANTED = 0.95

_state: dict[str, Any] = {}


def make_table(folder: pathlib.Path, size: int) -> Any:
    """Write an item table of unit vectors around centers."""
    from muse_keras.tables import ItemTable
    from muse_keras.tables.array_blocks import blocks

    rng = np.random.default_rng(0)
    centers = _unit(rng.standard_normal((int(size**0.5) // 4, DIM), np.float32))
    codes = np.lib.format.open_memmap(
        folder / "codes.npy", "w+", np.int8, (size, DIM)
    )
    for block in blocks(size):
        rows = block.stop - block.start
        noise = rng.standard_normal((rows, DIM), np.float32) / DIM**0.5
        near = centers[rng.integers(0, len(centers), rows)]
        codes[block] = (127 * _unit(near + noise)).astype(np.int8)
    return ItemTable.write(
        folder / "table", np.arange(1, size + 1), codes, {}, "benchmark"
    )


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def load(folder: str, size: int, exact: bool) -> dict[str, Any]:
    """Make the table, the queries and the indexes."""
    import apache_beam as beam
    import tensorflow as tf

    from tfx_pipeline.matching import factorized, index, inputs, job, probes
    from tfx_pipeline.matching.settings import Job

    root = pathlib.Path(folder)
    table = make_table(root, size)
    (root / "codes.npy").unlink()
    start = time.perf_counter()
    with beam.Pipeline() as pipeline:
        inputs.write_clusters(pipeline, str(table.path), folder, seed=0)
    clusters_s = time.perf_counter() - start
    items = index.Items(table)
    popularity = np.zeros(size, np.float32)
    made = Job(str(table.path), "", "", "", "", clusters=folder)
    start = time.perf_counter()
    clustered = job.make_index(made, items, popularity)
    index_s = time.perf_counter() - start
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((2 * QUERIES, DIM), np.float32) / DIM**0.5
    near = items.vectors(np.sort(rng.choice(size, 2 * QUERIES, replace=False)))
    queries = _unit(near + 0.5 * noise)
    np.save(root / "queries.npy", queries)
    both = np.pad(queries, [(0, 0), (0, 1)]).astype(np.float32)
    every = factorized.exact_index(items, K, popularity)
    scores, rows = (values.numpy() for values in every(tf.constant(both)))
    np.save(root / "exact.npy", rows)
    chosen = probes.choose(clustered, every, [both], WANTED)
    searches = {"clustered": clustered}
    if exact:
        searches["exact"] = index.Exact(items, popularity, K)
    _state.update(
        queries=[tf.constant(query[np.newaxis]) for query in both],
        searches={
            name: tf.function(of.search) for name, of in searches.items()
        },
        next=0,
    )
    found, differences = [], []
    for query, right, places in zip(
        _state["queries"], scores, rows, strict=True
    ):
        mine = [v.numpy()[0] for v in _state["searches"]["clustered"](query)]
        both_have = np.isin(mine[1], places)
        found.append(both_have.mean())
        order = np.argsort(places)
        at = order[np.searchsorted(places[order], mine[1][both_have])]
        differences.append(np.abs(mine[0][both_have] - right[at]).max())
    return {
        "clusters": clustered.num_clusters,
        "probes": chosen,
        "found": float(np.mean(found)),
        "worst_difference": float(max(differences)),
        "clusters_s": round(clusters_s, 1),
        "index_s": round(index_s, 1),
        "rss_mb": harness.rss_mb(),
    }


def search(name: str) -> float:
    """Search for one query; return milliseconds."""
    query = _state["queries"][_state["next"] % len(_state["queries"])]
    _state["next"] += 1
    call: Callable[..., Any] = _state["searches"][name]
    start = time.perf_counter()
    call(query)[1].numpy()
    return 1e3 * (time.perf_counter() - start)


if __name__ == "__main__":
    serve({"load": load, "search": search})
