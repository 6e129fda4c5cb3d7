"""FAISS: an inverted file of 8-bit codes, over the table of `retrieval`."""

from __future__ import annotations

import pathlib
import time
from typing import Any

import faiss
import numpy as np

from benchmarks import remote
from muse_keras.tables import ItemTable
from muse_keras.tables.array_blocks import blocks

K, WANTED = 500, 0.95

_state: dict[str, Any] = {}


def load(folder: str, threads: int) -> dict[str, Any]:
    """Build the index, and search as many clusters as are needed."""
    faiss.omp_set_num_threads(threads)
    root = pathlib.Path(folder)
    table = ItemTable.open(root / "table")
    start = time.perf_counter()
    clusters = round(table.num_items**0.5)
    index = faiss.index_factory(
        table.dim, f"IVF{clusters},SQ8", faiss.METRIC_INNER_PRODUCT
    )
    rows = np.random.default_rng(0).choice(
        table.num_items, min(table.num_items, 48 * clusters), replace=False
    )
    index.train(_unit(table.codes[1 + np.sort(rows)]))
    for block in blocks(table.num_items):
        index.add(_unit(table.codes[1 + block.start : 1 + block.stop]))
    index_s = time.perf_counter() - start
    queries = np.load(root / "queries.npy")
    exact = np.load(root / "exact.npy")
    index.nprobe, found = 1, 0.0
    while True:
        _, rows = index.search(queries, K)
        pairs = zip(rows, exact, strict=True)
        found = float(np.mean([np.isin(a, b).mean() for a, b in pairs]))
        if found >= WANTED or index.nprobe >= clusters:
            break
        index.nprobe *= 2
    _state.update(index=index, queries=queries, next=0)
    return {
        "probes": index.nprobe,
        "found": found,
        "index_s": round(index_s, 1),
    }


def _unit(codes: np.ndarray) -> np.ndarray:
    wide = codes.astype(np.float32)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


def search() -> float:
    """Search for one query; return milliseconds."""
    query = _state["queries"][_state["next"] % len(_state["queries"]), None]
    _state["next"] += 1
    start = time.perf_counter()
    _state["index"].search(query, K)
    return 1e3 * (time.perf_counter() - start)


if __name__ == "__main__":
    remote.serve({"load": load, "search": search})
