"""What the user cache saves: `rank` against `rank_cached`, and `prefetch`.

Serves a MUSE model through the embedded server and calls it by gRPC, one
request after the other, with histories and candidates of several sizes. The
user's history is prefetched, so that every call of `rank_cached` is a hit; a
miss ends the run. Both must give the same probabilities.

    python -m benchmarks.user_cache [--items N] [--seconds S] [--quick]
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import models

HISTORIES = (1_000, 10_000, 100_000)
CANDIDATES = (100, 1_000)
TOLERANCE = 1e-5


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    histories = HISTORIES[:2] if given.quick else HISTORIES
    candidates = CANDIDATES[:1] if given.quick else CANDIDATES
    with tempfile.TemporaryDirectory() as folder:
        base = pathlib.Path(folder)
        models.export_muse(base, given.items, with_user_cache=True)
        measure(
            base / "muse", given.items, histories, candidates, given.seconds
        )


def measure(
    model: pathlib.Path,
    num_items: int,
    histories: tuple[int, ...],
    candidates: tuple[int, ...],
    seconds: float,
) -> None:
    """Serve the model and print one line per size."""
    from serving.server import ServerConfig, running

    config = ServerConfig(
        model_name="muse", model_base_path=str(model), port=0, rest_api_port=0
    )
    ids = models.item_ids(num_items)
    with running(config) as app, Caller(app.grpc_target) as call:
        print(
            "history  candidates  signature    p50 ms   p99 ms   MB sent",
            flush=True,
        )
        for length in histories:
            for count in candidates:
                request = make_request(ids, length, count)
                report(call, request, length, count, seconds)


def report(
    call: Caller,
    request: dict[str, Any],
    length: int,
    count: int,
    seconds: float,
) -> None:
    """Time the three signatures with one request."""
    candidates = request["candidate_item_ids"]
    history = {k: v for k, v in request.items() if k != "candidate_item_ids"}
    short = {"user_id": request["user_id"], "candidate_item_ids": candidates}
    stored = call("prefetch", history)
    if stored["cached_length"][0] != length:
        raise SystemExit(f"prefetch stored {stored['cached_length'][0]}")
    full, cached = call("rank", request), call("rank_cached", short)
    difference = np.abs(
        full["click_probability"] - cached["click_probability"]
    ).max()
    if not cached["cache_hit"].all() or difference > TOLERANCE:
        raise SystemExit(f"rank_cached differs from rank by {difference}")
    for name, inputs in (
        ("rank", request),
        ("prefetch", history),
        ("rank_cached", short),
    ):
        p50, p99 = timed(lambda n=name, i=inputs: call(n, i), seconds)
        sent = sum(value.nbytes for value in inputs.values()) / 1e6
        print(
            f"{length:7,}  {count:10,}  {name:11}  {p50:7.2f}  {p99:7.2f}  "
            f"{sent:8.3f}",
            flush=True,
        )


def timed(call: Callable[[], Any], seconds: float) -> tuple[float, float]:
    """Return median and 99th percentile of calls, ms."""
    for _ in range(3):
        call()
    times = []
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(times) < 10:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    p50, p99 = np.percentile(times, [50, 99]) * 1e3
    return float(p50), float(p99)


def make_request(ids: Any, length: int, count: int) -> dict[str, Any]:
    """Return inputs of `rank` for one user."""
    generator = np.random.default_rng(length + count)
    return {
        "user_id": np.array([length + count], np.int64),
        "user_profile": generator.integers(1, models.PROFILES, (1, 5)),
        "behavior_item_ids": generator.choice(ids, (1, length)),
        "behavior_category_ids": generator.integers(
            1, models.CATEGORIES, (1, length)
        ),
        "candidate_item_ids": generator.choice(ids, (1, count), replace=False),
    }


class Caller:
    """Calls signatures by gRPC, with nothing between the call and the wire."""

    def __init__(self, target: str) -> None:
        """Opens a channel to `target`."""
        import grpc

        self._channel = grpc.insecure_channel(
            target, options=[("grpc.max_receive_message_length", -1)]
        )
        from tensorflow_serving.apis import prediction_service_pb2_grpc

        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(
            self._channel
        )

    def __enter__(self) -> Caller:
        """Return itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the channel."""
        self._channel.close()

    def __call__(self, name: str, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the outputs of a signature."""
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest()
        request.model_spec.name = "muse"
        request.model_spec.signature_name = name
        for key, value in inputs.items():
            request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
        reply = self._stub.Predict(request, timeout=60)
        return {k: tf.make_ndarray(v) for k, v in reply.outputs.items()}


if __name__ == "__main__":
    main()
