"""FAISS: exact float32, and its 8-bit scalar quantizers."""

from __future__ import annotations

import pathlib
import time
from typing import Any

import faiss
import numpy as np

from benchmarks import remote

K = 50
FLAT = "FAISS IndexFlatIP"
TRAINED = "FAISS 8 bit"
# Inner products of the codes themselves: no norms, hence no cosines.
DIRECT = "FAISS 8 bit direct"

_state: dict[str, Any] = {}


def load(folder: str, threads: int) -> None:
    """Build the indexes of the history."""
    faiss.omp_set_num_threads(threads)
    codes = np.load(f"{folder}/history.npy")
    units = _unit(codes)
    kinds = faiss.ScalarQuantizer
    indexes = {
        FLAT: faiss.IndexFlatIP(codes.shape[1]),
        TRAINED: faiss.IndexScalarQuantizer(
            codes.shape[1], kinds.QT_8bit, faiss.METRIC_INNER_PRODUCT
        ),
        DIRECT: faiss.IndexScalarQuantizer(
            codes.shape[1],
            kinds.QT_8bit_direct_signed,
            faiss.METRIC_INNER_PRODUCT,
        ),
    }
    for name, index in indexes.items():
        vectors = codes.astype(np.float32) if name == DIRECT else units
        index.train(vectors)
        index.add(vectors)
    _state.update(folder=pathlib.Path(folder), indexes=indexes)


def names() -> list[str]:
    """Return the names of the indexes."""
    return list(_state["indexes"])


def prepare() -> None:
    """Read the candidates."""
    codes = np.load(_state["folder"] / "candidates.npy")
    _state["units"] = _unit(codes)
    _state["codes"] = codes.astype(np.float32)


def search(name: str) -> float:
    """Search; return milliseconds."""
    queries = _state["codes" if name == DIRECT else "units"]
    start = time.perf_counter()
    _state[name] = _state["indexes"][name].search(queries, K)[1]
    return 1e3 * (time.perf_counter() - start)


def found(name: str) -> str:
    """Return a file of the positions found last."""
    path = _state["folder"] / "found.npy"
    np.save(path, _state[name])
    return str(path)


def _unit(codes: np.ndarray) -> np.ndarray:
    vectors = codes.astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


if __name__ == "__main__":
    remote.serve(
        {
            "load": load,
            "names": names,
            "prepare": prepare,
            "search": search,
            "found": found,
        }
    )
