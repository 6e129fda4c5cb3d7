"""Exact top-50 by cosine of int8 codes, over one long history and in training.

Ours is `GSUTopK` in a SavedModel that was exported and loaded again, given the
codes of the history and their inverse norms, as the item table holds them.
`int8 products` is the export for CPUs, `float32 products` the portable one.
Peers get their own form of the same history, made beforehand and not timed:
float32 unit vectors, or FAISS's 8-bit codes.

Results agree if the 50 behaviors of both have exactly the 50 highest cosines,
compared as fractions of integers (no tolerance; ties may differ). Ours must;
the share of them that each peer finds is printed: FAISS's 8 bits approximate.

The floor is the larger of reading the codes once at the bandwidth measured
here, and a bfloat16 matrix product alone (no search), measured alongside.

With `--device gpu` see `benchmarks/gsu_gpu.py`.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

from benchmarks import harness, remote

DIM = 128
K = 50
PORTABLE = "float32 products"
FOR_CPUS = "int8 products"


def main() -> None:
    """Times each search against its peers and checks that they agree."""
    parser = harness.parser(__doc__)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    arguments = parser.parse_args()
    if arguments.device == "gpu":
        sys.exit(_on_gpu(arguments.quick))
    harness.pin(arguments.threads)
    report = harness.Report("gsu", arguments)
    length = 20_000 if arguments.quick else 100_000
    generator = np.random.default_rng(0)
    history = _codes(generator, length)
    with (
        tempfile.TemporaryDirectory() as folder,
        _Peers(pathlib.Path(folder), history, arguments.threads) as peers,
    ):
        ours = _exported(pathlib.Path(folder), history)
        bandwidth = _bytes_per_millisecond()
        for count in (1, 100) if arguments.quick else (1, 100, 1_000):
            candidates = _codes(generator, count)
            _compare(report, candidates, history, ours, peers, bandwidth)
    _training_shape(report, 32 if arguments.quick else 256, arguments.threads)
    report.close()


def _compare(
    report: harness.Report,
    candidates: np.ndarray,
    history: np.ndarray,
    ours: dict[str, Any],
    peers: _Peers,
    bytes_per_ms: float,
) -> None:
    """Measures one number of candidates."""
    import tensorflow as tf

    constant = tf.constant(candidates)
    calls = {
        name: harness.timed(lambda search=search: search(candidates=constant))
        for name, search in ours.items()
    }
    peers.prepare(candidates)
    calls |= peers.calls
    medians = harness.alternate(calls)
    case = f"{len(candidates):,} x {len(history):,}"
    best = _best_keys(candidates, history)
    alone = medians.pop("bfloat16 product alone")
    shares = {
        name: _share_found(candidates, history, best, found)
        for name, found in peers.found().items()
    }
    report.fact(case, bfloat16_product_alone_ms=round(alone, 3), recall=shares)
    for name, search in ours.items():
        found = search(candidates=constant)["indices"].numpy()
        exact = _share_found(candidates, history, best, found) == 1.0
        report.add(
            f"{case}, {name}",
            medians[name],
            {peer: medians[peer] for peer in shares},
            agree={peer: exact and shares[peer] == 1.0 for peer in shares},
            agree_by="both have exactly the 50 highest cosines, as fractions",
            floor_ms=max(history.nbytes / bytes_per_ms, alone),
            right=exact,
        )


class _Peers:
    """All peers, with the same history."""

    def __init__(
        self, folder: pathlib.Path, history: np.ndarray, threads: int
    ) -> None:
        import tensorflow as tf

        self._folder = folder
        self._units = tf.constant(_unit(history))
        self._halves = tf.cast(tf.constant(history), tf.bfloat16)
        self._candidates: Any = None
        np.save(folder / "history.npy", history)
        arguments = {"folder": str(folder), "threads": threads}
        self._faiss = remote.Remote("benchmarks.peers.faiss_gsu")
        self._torch = remote.Remote(
            "benchmarks.peers.torch_gsu", remote.BACKENDS
        )
        for child in (self._faiss, self._torch):
            child.call("load", **arguments)

        @tf.function
        def plain(candidates: tf.Tensor) -> Any:
            scores = tf.matmul(candidates, self._units, transpose_b=True)
            return tf.math.top_k(scores, K)

        @tf.function
        def alone(candidates: tf.Tensor) -> tf.Tensor:
            return tf.matmul(candidates, self._halves, transpose_b=True)

        self._plain = plain
        self._alone = alone

    def prepare(self, candidates: np.ndarray) -> None:
        """Hands out the candidates."""
        import tensorflow as tf

        np.save(self._folder / "candidates.npy", candidates)
        self._candidates = tf.constant(_unit(candidates))
        for child in (self._faiss, self._torch):
            child.call("prepare")

    @property
    def calls(self) -> dict[str, harness.Timed]:
        """Measured calls by name."""
        import tensorflow as tf

        halves = tf.cast(self._candidates, tf.bfloat16)
        return {
            **{
                name: self._faiss.timed("search", name=name)
                for name in self._faiss.call("names")
            },
            "TensorFlow matmul + top_k": harness.timed(
                lambda: self._plain(self._candidates)
            ),
            "PyTorch matmul + topk": self._torch.timed("search"),
            "bfloat16 product alone": harness.timed(
                lambda: self._alone(halves)
            ),
        }

    def found(self) -> dict[str, np.ndarray]:
        """Returns the positions (C, K) that each peer found last."""
        results = {
            name: np.load(self._faiss.call("found", name=name))
            for name in self._faiss.call("names")
        }
        results["TensorFlow matmul + top_k"] = self._plain(
            self._candidates
        ).indices.numpy()
        results["PyTorch matmul + topk"] = np.load(self._torch.call("found"))
        return results

    def __enter__(self) -> _Peers:
        return self

    def __exit__(self, *_: object) -> None:
        self._faiss.close()
        self._torch.close()


def _exported(folder: pathlib.Path, history: np.ndarray) -> dict[str, Any]:
    """Returns the signatures of the saved and loaded model, by name."""
    import tensorflow as tf

    from muse_keras.layers import GSUTopK
    from muse_keras.tensorflow import has_int8_products, int8_products

    class Search(tf.Module):
        """The codes and inverse norms of one history, and the search."""

        def __init__(self) -> None:
            super().__init__()
            norms = np.linalg.norm(history.astype(np.float64), axis=1)
            self.codes = tf.Variable(history[np.newaxis], trainable=False)
            self.inverse = tf.Variable(
                (1.0 / norms).astype(np.float32)[np.newaxis], trainable=False
            )
            self.layer = GSUTopK(K)

        def search(self, candidates: tf.Tensor) -> dict[str, tf.Tensor]:
            found = self.layer(
                candidates[tf.newaxis],
                self.codes,
                behavior_inverse_norms=self.inverse,
            )
            return {
                "indices": found.indices[0],
                "similarities": found.similarities[0],
            }

    module = Search()
    spec = tf.TensorSpec([None, DIM], tf.int8, "candidates")

    def trace() -> Any:
        return tf.function(module.search).get_concrete_function(spec)

    signatures = {"portable": trace()}
    if has_int8_products():
        with int8_products():
            signatures["for_cpus"] = trace()
    path = str(folder / "model")
    tf.saved_model.save(module, path, signatures=signatures)
    loaded = tf.saved_model.load(path).signatures
    names = {FOR_CPUS: "for_cpus", PORTABLE: "portable"}
    return {
        name: loaded[key] for name, key in names.items() if key in signatures
    }


def _training_shape(
    report: harness.Report, requests: int, threads: int
) -> None:
    """Measures a batch of requests against one row per impression."""
    import tensorflow as tf

    from muse_keras.layers import GSUTopK

    generator = np.random.default_rng(1)
    candidates = _codes(generator, requests, 11)
    histories = _codes(generator, requests, 1_000)
    norms = np.linalg.norm(histories.astype(np.float64), axis=-1)
    tensors = tuple(
        map(tf.constant, (candidates, histories, (1.0 / norms).astype("f4")))
    )
    layer = GSUTopK(K)

    @tf.function
    def search(candidates: Any, histories: Any, inverse: Any) -> Any:
        return layer(
            candidates, histories, behavior_inverse_norms=inverse
        ).indices

    with (
        tempfile.TemporaryDirectory() as folder,
        remote.Remote("benchmarks.peers.torch_gsu", remote.BACKENDS) as peer,
    ):
        np.save(f"{folder}/history.npy", histories)
        np.save(f"{folder}/candidates.npy", candidates)
        peer.call("load_batch", folder=folder, threads=threads)
        name = "PyTorch, one row per impression"
        medians = harness.alternate(
            {
                "ours": harness.timed(lambda: search(*tensors)),
                name: peer.timed("search_batch"),
            }
        )
        theirs = np.load(peer.call("found")).reshape(requests, 11, K)
    found = search(*tensors).numpy()
    shares = {"ours": 1.0, name: 1.0}
    for request in range(requests):
        best = _best_keys(candidates[request], histories[request])
        for searcher, indices in (("ours", found), (name, theirs)):
            share = _share_found(
                candidates[request], histories[request], best, indices[request]
            )
            shares[searcher] = min(shares[searcher], share)
    case = f"{requests} requests x 11 x 1,000, {PORTABLE}"
    report.fact(case, lowest_recall=shares)
    report.add(
        case,
        medians["ours"],
        {name: medians[name]},
        agree=shares["ours"] == shares[name] == 1.0,
        agree_by="both have exactly the 50 highest cosines, as fractions",
        right=shares["ours"] == 1.0,
    )


def _codes(generator: np.random.Generator, *shape: int) -> np.ndarray:
    """Returns int8 codes of random unit vectors."""
    return np.trunc(
        127 * _unit(generator.standard_normal((*shape, DIM), np.float32))
    ).astype(np.int8)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Returns vectors as float32 of length 1."""
    vectors = vectors.astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _keys(candidates: np.ndarray, history: np.ndarray) -> np.ndarray:
    """Returns what orders behaviors as exact cosines do, (C, L)."""
    # Sums of products of codes are exact in float32, squares in float64.
    dots = candidates.astype(np.float32) @ history.astype(np.float32).T
    wide = dots.astype(np.float64)
    squares = (history.astype(np.float64) ** 2).sum(axis=1)
    return wide * np.abs(wide) / squares


def _best_keys(candidates: np.ndarray, history: np.ndarray) -> np.ndarray:
    """Returns the K highest keys (C, K), descending."""
    best = np.empty((len(candidates), K))
    for start in range(0, len(candidates), 100):
        keys = _keys(candidates[start : start + 100], history)
        top = np.partition(keys, -K, axis=1)[:, -K:]
        best[start : start + 100] = -np.sort(-top, axis=1)
    return best


def _share_found(
    candidates: np.ndarray,
    history: np.ndarray,
    best: np.ndarray,
    indices: np.ndarray,
) -> float:
    """Returns which share of the best K was found, ties being equal."""
    found = 0
    for candidate, keys, chosen in zip(candidates, best, indices, strict=True):
        distinct = np.unique(chosen)
        reached = _keys(candidate[np.newaxis], history[distinct])[0]
        found += int((reached >= keys[-1]).sum())
    return found / best.size


def _bytes_per_millisecond() -> float:
    """Returns the bandwidth of reading memory, one thread per core."""
    import tensorflow as tf

    values = tf.ones([1 << 26], tf.float32)
    total = tf.function(lambda: tf.reduce_max(values))
    total()
    start = time.perf_counter()
    for _ in range(5):
        total()
    return 5 * 4 * (1 << 26) / (1e3 * (time.perf_counter() - start))


def _on_gpu(quick: bool) -> int:
    """Runs the layer on a GPU, by JAX and by PyTorch."""
    python = remote.BACKENDS / "bin" / "python"
    code = 0
    for backend in ("jax", "torch"):
        command = [str(python), "-m", "benchmarks.gsu_gpu", backend]
        command += ["--quick"] if quick else []
        done = subprocess.run(command, cwd=remote.PROJECT, check=False)
        code = code or done.returncode
    return code


if __name__ == "__main__":
    main()
