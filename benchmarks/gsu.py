"""Exact top-50 by cosine of int8 codes over one user's history.

Ours is `GSUTopK` as a compiled graph, as the exported model runs it. The peer
is the same search written plainly: normalise, matrix product, `tf.math.top_k`.
They agree when both return the same behaviours as a float64 reference, up to
behaviours whose similarity differs by less than 1e-6.
"""

from __future__ import annotations

import argparse
import os

import numpy as np

from benchmarks import harness

DIM = 128
K = 50
# Bytes per second that one core pair reads from memory here; the floor is the
# time to read the int8 history once.
BYTES_PER_SECOND = 28e9
SAME = 1e-6


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true", help="no table")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

    import tensorflow as tf

    from muse_keras.layers import GSUTopK

    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    length = 10_000 if arguments.quick else 100_000
    generator = np.random.default_rng(0)
    layer = GSUTopK(k=K)
    results = []
    for count in (1, 100) if arguments.quick else (1, 100, 1_000):
        behaviors = _codes(generator, length)
        candidates = _codes(generator, count)

        @tf.function
        def ours(
            candidates: tf.Tensor = candidates, behaviors: tf.Tensor = behaviors
        ) -> tuple[tf.Tensor, tf.Tensor]:
            found = layer(candidates, behaviors)
            return found.similarities, found.indices

        @tf.function
        def peer(
            candidates: tf.Tensor = candidates, behaviors: tf.Tensor = behaviors
        ) -> tuple[tf.Tensor, tf.Tensor]:
            scores = tf.matmul(
                tf.math.l2_normalize(tf.cast(candidates, tf.float32), -1),
                tf.math.l2_normalize(tf.cast(behaviors, tf.float32), -1),
                transpose_b=True,
            )
            return tf.math.top_k(scores, K)

        ours_ms, peer_ms = harness.alternate(ours, peer)
        reference = _cosines(candidates[0].numpy(), behaviors[0].numpy())
        result = harness.Result(
            bench="gsu",
            case=f"{count} x {length}",
            ours_ms=ours_ms,
            peer="tf matmul + top_k",
            peer_ms=peer_ms,
            ratio=peer_ms / ours_ms,
            agree=all(
                _agrees(reference, call()[1].numpy()[0])
                for call in (ours, peer)
            ),
            floor_ms=1e3 * length * DIM / BYTES_PER_SECOND,
            threads=arguments.threads,
            rss_mb=harness.rss_mb(),
        )
        harness.print_json(result)
        results.append(result)
    if not arguments.json:
        harness.print_table(results)


def _codes(generator: np.random.Generator, count: int):  # noqa: ANN202
    import tensorflow as tf

    vectors = generator.standard_normal((1, count, DIM))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    return tf.constant(np.trunc(127 * vectors).astype(np.int8))


def _cosines(candidates: np.ndarray, behaviors: np.ndarray) -> np.ndarray:
    a, b = (
        part / np.linalg.norm(part, axis=-1, keepdims=True)
        for part in (candidates.astype(float), behaviors.astype(float))
    )
    return a @ b.T


def _agrees(reference: np.ndarray, indices: np.ndarray) -> bool:
    """Tells whether the chosen behaviours are a top-K of the reference."""
    best = -np.sort(-reference, axis=-1)[:, :K]
    chosen = -np.sort(-np.take_along_axis(reference, indices, -1), axis=-1)
    distinct = all(len(set(row)) == K for row in indices.tolist())
    return distinct and bool(np.abs(best - chosen).max() < SAME)


if __name__ == "__main__":
    main()
