"""`GSUTopK` on a GPU, by JAX or PyTorch, against the machine's floors.

    python -m benchmarks.gsu_gpu torch [--quick] [--device cpu]

Needs Keras, NumPy and the backend only; no TensorFlow. For each number of
users and candidates it prints the time of the whole layer, top-K included,
and the floor: reading all int8 codes once at 4.3 TB/s, or the matrix product
at 790 TFLOP/s in bfloat16 (NVIDIA H200), whichever is longer. The result
agrees if the cosines found are the 50 highest of a float64 search, to 1e-6,
for the first user and a few candidates.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from typing import Any

import numpy as np

DIM = 128
K = 50
BYTES_PER_SECOND = 4.3e12
FLOPS_PER_SECOND = 790e12
SHAPES = ((1, 1), (1, 1_000), (32, 1_000))
RUNS = 15


def main() -> None:
    """Times the layers of the search on the GPU."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("backend", choices=("jax", "torch"))
    parser.add_argument("--quick", action="store_true", help="short history")
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    arguments = parser.parse_args()
    os.environ["KERAS_BACKEND"] = arguments.backend
    device = _device(arguments.backend, arguments.device)

    from muse_keras.layers import GSUTopK

    length = 10_000 if arguments.quick else 100_000
    generator = np.random.default_rng(0)
    layer = GSUTopK(K)
    for users, count in SHAPES:
        behaviors = _codes(generator, users, length)
        candidates = _codes(generator, users, count)
        run = _compiled(arguments.backend, device, layer, candidates, behaviors)
        run()
        run()
        times = []
        for _ in range(RUNS):
            start = time.perf_counter()
            similarities = run()
            times.append(1e3 * (time.perf_counter() - start))
        median = statistics.median(times)
        floor = 1e3 * max(
            users * length * DIM / BYTES_PER_SECOND,
            2 * users * count * length * DIM / FLOPS_PER_SECOND,
        )
        line = {
            "bench": "gsu_gpu",
            "case": f"{users} x {count:,} x {length:,}",
            "backend": arguments.backend,
            "device": str(device),
            "ours_ms": round(median, 4),
            "floor_ms": round(floor, 4),
            "times_the_floor": round(median / floor, 2),
            "agree": _agrees(candidates[0], behaviors[0], similarities[0]),
        }
        print(json.dumps(line), flush=True)


def _device(backend: str, kind: str) -> Any:
    """Returns the device, or ends with a line that says it is missing."""
    if backend == "jax":
        import jax

        devices = [
            d for d in jax.devices() if (d.platform == "cpu") != (kind == "gpu")
        ]
        if devices:
            return devices[0]
    else:
        import torch

        if kind == "cpu":
            return torch.device("cpu")
        if torch.cuda.is_available():
            return torch.device("cuda")
    sys.exit(f"gsu_gpu: {backend} sees no {kind} here; nothing was measured.")


def _compiled(
    backend: str, device: Any, layer: Any, candidates: Any, behaviors: Any
) -> Any:
    """Returns a call that searches on the device and waits for the result."""
    if backend == "jax":
        import jax

        tensors = [jax.device_put(x, device) for x in (candidates, behaviors)]
        search = jax.jit(lambda c, b: tuple(layer(c, b)))

        def run() -> np.ndarray:
            return jax.block_until_ready(search(*tensors))[0]

        return run
    import torch

    tensors = [torch.from_numpy(x).to(device) for x in (candidates, behaviors)]

    @torch.inference_mode()
    def run_torch() -> Any:
        found = layer(*tensors)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return found.similarities

    return run_torch


def _codes(generator: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = generator.standard_normal((*shape, DIM), np.float32)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.trunc(127 * vectors).astype(np.int8)


def _agrees(candidates: np.ndarray, behaviors: np.ndarray, found: Any) -> bool:
    """Tells whether the first candidates' cosines are the highest."""
    some = candidates[:5].astype(np.float64)
    wide = behaviors.astype(np.float64)
    cosines = some @ wide.T
    cosines /= np.linalg.norm(some, axis=1)[:, np.newaxis]
    cosines /= np.linalg.norm(wide, axis=1)
    best = -np.sort(-cosines, axis=1)[:, :K]
    actual = np.stack(
        [
            np.asarray(getattr(row, "cpu", lambda row=row: row)())
            for row in found[:5]
        ]
    )
    return bool(np.abs(actual - best).max() < 1e-6)


if __name__ == "__main__":
    main()
