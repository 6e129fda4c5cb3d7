"""What the user cache saves: `rank` against `rank_cached`.

A MUSE ranker with random weights is served by the embedded server, a process
of its own, and called by gRPC, one request after the other. Ours is
`rank_cached`, whose history was prefetched; the peer is `rank`, with the same
history in the request. Both take turns, so that a slow minute hits both; a
call of `rank_cached` that misses ends the run. Each case has a line for the
median and one for the 99th percentile.

What bounds both is the search. The floor is its scalar products alone:
history x candidates x 128 multiplications of 8-bit integers (of float32 where
the processor has no exact 8-bit product), measured in this process. `prefetch`
is what a request does ahead, and is on no line: see the facts.

The answers agree when all probabilities are within 1e-5.
"""

from __future__ import annotations

import contextlib
import pathlib
import tempfile
from typing import Any

from benchmarks import harness

HISTORIES, QUICK_HISTORIES = (1_000, 10_000, 100_000), (1_000, 10_000)
CANDIDATES, QUICK_CANDIDATES = (10, 100, 1_000), (10, 100)
NUM_ITEMS, QUICK_ITEMS = 1_000_000, 100_000
TOLERANCE = 1e-5
# Calls of each side: many where they are short, for the 99th percentile.
SECONDS, QUICK_SECONDS = 40.0, 2.0
MOST_CALLS, FEWEST_CALLS = 300, 20


def main() -> None:
    """Time `rank_cached` against `rank` by the length of histories."""
    arguments = harness.parser(__doc__).parse_args()
    harness.pin(arguments.threads)
    report = harness.Report("user_cache", arguments)
    with tempfile.TemporaryDirectory(prefix="muse-user-cache-") as folder:
        _run(pathlib.Path(folder), arguments.quick, report)
    report.close()


def _run(folder: pathlib.Path, quick: bool, report: Any) -> None:
    """Export, serve and measure every size."""
    from benchmarks import models
    from benchmarks.load import processes
    from muse_keras.tensorflow import has_int8_products
    from serving.client import MuseClient, Timeouts

    num_items = QUICK_ITEMS if quick else NUM_ITEMS
    seconds = QUICK_SECONDS if quick else SECONDS
    harness.say(f"user_cache: exporting a model with {num_items:,} items")
    target = "cpu" if has_int8_products() else "any"
    muse = models.export_muse(
        folder, num_items, with_user_cache=True, target=target
    )
    report.fact("export", target=target, items=num_items)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(
            processes.model_server(folder, {"muse": muse.parent})
        )
        client = stack.enter_context(
            MuseClient(server.grpc, timeouts=Timeouts(call=60, total=60))
        )
        for length in QUICK_HISTORIES if quick else HISTORIES:
            for count in QUICK_CANDIDATES if quick else CANDIDATES:
                request = models.rank_request(
                    num_items, count, length, seed=length + count
                )
                harness.say(f"user_cache: {length:,} x {count:,}")
                _compare(report, client, request, seconds, target)


def _compare(
    report: Any,
    client: Any,
    request: dict[str, Any],
    seconds: float,
    target: str,
) -> None:
    """Measure both signatures with one request."""
    import numpy as np

    history = {k: v for k, v in request.items() if k != "candidate_item_ids"}
    short = {name: request[name] for name in ("user_id", "candidate_item_ids")}
    length = request["behavior_item_ids"].size
    count = request["candidate_item_ids"].size
    prefetched = harness.timed(lambda: client.predict("prefetch", history))
    prefetch = [prefetched() for _ in range(FEWEST_CALLS)]
    answers: dict[str, Any] = {}

    def keep(name: str, inputs: dict[str, Any]) -> harness.Timed:
        def call() -> None:
            answers[name] = client.predict(name, inputs)

        return harness.timed(call)

    calls = {
        "rank": keep("rank", request),
        "rank_cached": keep("rank_cached", short),
    }
    once = sum(call() for call in calls.values())
    runs = int(min(max(1e3 * seconds / once, FEWEST_CALLS), MOST_CALLS))
    times: dict[str, list[float]] = {name: [] for name in calls}
    agree = True
    for _ in range(runs):
        for name, call in calls.items():
            times[name].append(call())
        apart = np.abs(
            answers["rank"]["click_probability"]
            - answers["rank_cached"]["click_probability"]
        ).max()
        hit = bool(answers["rank_cached"]["cache_hit"].all())
        agree = agree and hit and float(apart) <= TOLERANCE
    floor = _products_ms(length, count, target)
    for share in (50, 99):
        found = {k: float(np.percentile(v, share)) for k, v in times.items()}
        report.add(
            f"p{share}, {count:,} candidates x {length:,} behaviors",
            found["rank_cached"],
            {"rank": found["rank"]},
            agree=agree,
            agree_by=f"all hits, probabilities within {TOLERANCE}",
            floor_ms=floor,
        )
    report.fact(
        f"{count:,} candidates x {length:,} behaviors",
        calls=runs,
        prefetch_p50_ms=round(float(np.percentile(prefetch, 50)), 3),
        prefetch_p99_ms=round(float(np.percentile(prefetch, 99)), 3),
        rank_bytes=sum(value.nbytes for value in request.values()),
        rank_cached_bytes=sum(value.nbytes for value in short.values()),
        code_bytes=length * 128,
        multiplications=length * count * 128,
    )


def _products_ms(length: int, count: int, target: str) -> float:
    """Return the median time of the search's scalar products alone."""
    import numpy as np
    import tensorflow as tf

    from benchmarks.models import DIM
    from muse_keras.tensorflow.code_search import products

    generator = np.random.default_rng(0)
    candidates = generator.integers(-127, 128, (count, DIM), np.int8)
    history = generator.integers(-127, 128, (length, DIM), np.int8)
    if target == "cpu":
        codes = tf.constant(history.view(np.uint8) ^ np.uint8(128))
        queries = tf.constant(candidates)
    else:
        codes = tf.constant(history, tf.float32)
        queries = tf.constant(candidates, tf.float32)
    run = tf.function(lambda: products(queries, codes))
    timed = harness.timed(run)
    return harness.alternate({"products": timed}, runs=9)["products"]


if __name__ == "__main__":
    main()
