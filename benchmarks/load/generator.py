"""The load as a process of its own, called through `benchmarks.remote`.

One event loop makes all calls. How much CPU it takes is part of every
result: the servers share the cores with it.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np

from benchmarks import remote
from benchmarks.load import calls
from benchmarks.load.arrivals import poisson
from benchmarks.load.loops import closed_loop, open_loop
from benchmarks.load.summary import summary
from benchmarks.load.workload import Workload
from serving.client import (
    AsyncMuseClient,
    AsyncRankingClient,
    Retry,
    Timeouts,
)

_loop = asyncio.new_event_loop()
_workloads: dict[str, Workload] = {}
_clients = calls.Clients()


def prepare(
    targets: dict[str, str],
    workloads: dict[str, dict[str, Any]],
    deadline_ms: float = 5_000.0,
) -> None:
    """Make clients and workloads.

    Args:
        targets: `host:port` by attribute of `calls.Clients`.
        workloads: arguments of `Workload` by name.
        deadline_ms: of requests to the ranking service.
    """
    global _clients
    made: dict[str, Any] = dict(targets)
    transports = {"muse": "grpc", "noop": "grpc", "muse_rest": "rest"}
    for name, transport in transports.items():
        if name in made:
            made[name] = AsyncMuseClient(
                made[name],
                transport,  # type: ignore[arg-type]
                timeouts=Timeouts(call=60, total=60),
                retry=Retry(attempts=1),
            )
    if "service" in made:
        made["service"] = AsyncRankingClient(made["service"])
    _clients = calls.Clients(**made, deadline_ms=deadline_ms)
    for name, given in workloads.items():
        _workloads[name] = Workload(**given)


def fill(workload: str) -> int:
    """Prefetch all users of a workload, the most active last.

    Returns:
        How many there are.
    """

    async def work() -> None:
        client = _clients.muse
        if client is None:
            raise ValueError("There is no model server.")
        for user in reversed(_workloads[workload].users):
            await client.prefetch(calls.prefetch_request(user))

    _loop.run_until_complete(work())
    return len(_workloads[workload].users)


def run(
    kind: str,
    workload: str,
    seconds: float,
    workers: int = 0,
    rate: float = 0.0,
    warm_up: int = 2,
    beside: tuple[str, str] | None = None,
) -> dict[str, Any]:
    """Ask for some seconds.

    Args:
        kind: of the calls; see `calls.KINDS`.
        workload: name of the workload.
        seconds: how long.
        workers: of a closed loop; 0 for an open one.
        rate: arrivals per second of an open loop.
        warm_up: calls made before, not counted.
        beside: kind and workload of one more caller, who is not measured.

    Returns:
        See `summary`, and `generator_cores`.
    """
    call = calls.KINDS[kind](_clients, _workloads[workload])
    if beside is not None:
        other = calls.KINDS[beside[0]](_clients, _workloads[beside[1]])

    async def work() -> dict[str, Any]:
        for _ in range(warm_up):
            await call()
        # So that what is compared has the same users at the same times.
        _workloads[workload].restart()
        if beside is not None:
            asking = asyncio.create_task(closed_loop(other, 1, seconds))
        busy = time.process_time()
        if workers:
            samples = await closed_loop(call, workers, seconds)
        else:
            generator = np.random.default_rng(0)
            samples = await open_loop(call, poisson(rate, seconds, generator))
        busy = time.process_time() - busy
        if beside is not None:
            await asking
        return {
            **summary(samples),
            "seconds": round(samples.seconds, 2),
            "generator_cores": round(busy / samples.seconds, 2),
        }

    return _loop.run_until_complete(work())


if __name__ == "__main__":
    remote.serve({"prepare": prepare, "fill": fill, "run": run})
