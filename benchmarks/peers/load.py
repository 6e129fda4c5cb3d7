"""Callers in a process of their own: each asks again when it has its answer.

Called through `benchmarks.remote`. All callers share one `MuseClient`, as the
threads of a service would.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np

from benchmarks import remote
from serving.client import MuseClient, OverloadedError, Retry, Timeouts

_clients: dict[str, MuseClient] = {}
_inputs: dict[str, dict[str, np.ndarray]] = {}


def prepare(targets: dict[str, str], requests: dict[str, str]) -> None:
    """Connect and read the requests.

    Args:
        targets: address by transport, `grpc` and `rest`.
        requests: `.npz` file by name.
    """
    for transport, target in targets.items():
        _clients[transport] = MuseClient(
            target,
            transport,  # type: ignore[arg-type]
            timeouts=Timeouts(call=60, total=60),
            retry=Retry(attempts=1),
        )
    for name, file in requests.items():
        with np.load(file) as arrays:
            _inputs[name] = {key: arrays[key] for key in arrays}


def run(
    transport: str,
    request: str,
    callers: int,
    seconds: float,
    beside: list[Any] | None = None,
) -> dict[str, float]:
    """Ask for some seconds.

    Args:
        transport: `grpc` or `rest`.
        request: name of the request.
        callers: threads that ask at once.
        seconds: how long; calls in flight then are finished and counted.
        beside: `[transport, request, callers]` of other callers that ask at
            the same time and are not measured.

    Returns:
        Percentiles of the answered calls in ms, answers per second, and how
        many were refused.
    """
    times: list[float] = []
    refused: list[float] = []
    unmeasured: list[float] = []
    start = time.perf_counter()
    stop = start + seconds
    threads = [
        threading.Thread(
            target=_ask, args=(transport, request, stop, times, refused)
        )
        for _ in range(callers)
    ]
    if beside is not None:
        other, name, count = beside
        threads += [
            threading.Thread(
                target=_ask, args=(other, name, stop, unmeasured, unmeasured)
            )
            for _ in range(count)
        ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - start
    values = np.percentile(times, [50, 95, 99]) if times else [-1.0] * 3
    return {
        **{
            name: round(float(value), 2)
            for name, value in zip(
                ("p50_ms", "p95_ms", "p99_ms"), values, strict=True
            )
        },
        "per_second": round(len(times) / took, 1),
        "calls": len(times),
        "refused": len(refused),
    }


def _ask(
    transport: str,
    request: str,
    stop: float,
    times: list[float],
    refused: list[float],
) -> None:
    client, inputs = _clients[transport], _inputs[request]
    while True:
        start = time.perf_counter()
        if start >= stop:
            return
        try:
            client.predict("rank", inputs)
        except OverloadedError:
            refused.append(1.0)
            time.sleep(0.05)  # a refused caller does not hammer
        else:
            times.append(1e3 * (time.perf_counter() - start))


if __name__ == "__main__":
    remote.serve({"prepare": prepare, "run": run})
