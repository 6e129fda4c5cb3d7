"""Closed and open loops over any call."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable

import numpy as np

from serving.client import MuseClientError, OverloadedError

REFUSED_PAUSE_S = 0.05
"""A refused worker does not hammer."""

HITS = ("hit", "cached")
"""Outcomes that come from the user cache."""

# One request: what came of it (`hit`, `miss` or the path of the ranking
# service), None where that is not a question.
Call = Callable[[], Awaitable["str | None"]]


@dataclasses.dataclass
class Samples:
    """What a run gave.

    Attributes:
        latencies: seconds of each answered call.
        late: seconds by which each call of an open loop was sent after its
            time: the generator's own delay, part of the latency.
        outcomes: answers by what came of them.
        refused: calls that the server had no place for.
        failed: calls that failed otherwise, by class of the error.
        seconds: from the first call to the last answer.
    """

    latencies: list[float] = dataclasses.field(default_factory=list)
    late: list[float] = dataclasses.field(default_factory=list)
    outcomes: dict[str, int] = dataclasses.field(default_factory=dict)
    refused: int = 0
    failed: dict[str, int] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0

    @property
    def hit_rate(self) -> float | None:
        """Share of the answers that come from the user cache."""
        if not self.outcomes:
            return None
        hits = sum(self.outcomes.get(name, 0) for name in HITS)
        return hits / sum(self.outcomes.values())


async def closed_loop(call: Call, workers: int, seconds: float) -> Samples:
    """Let workers ask again as soon as they have their answer.

    Args:
        call: one request.
        workers: how many ask at once.
        seconds: how long; calls in flight then are finished and counted.
    """
    samples = Samples()
    start = time.perf_counter()

    async def work() -> None:
        while (begin := time.perf_counter()) < start + seconds:
            if not await _one(call, begin, samples):
                await asyncio.sleep(REFUSED_PAUSE_S)

    await asyncio.gather(*(work() for _ in range(workers)))
    samples.seconds = time.perf_counter() - start
    return samples


async def open_loop(call: Call, arrivals: np.ndarray) -> Samples:
    """Ask at given times, whether or not earlier calls were answered.

    The latency of a call begins at its time, not when it was sent: a server
    that stands still makes all who come meanwhile wait, and that counts.

    Args:
        call: one request.
        arrivals: float64 (N,), seconds after the start, ascending.
    """
    samples = Samples()
    tasks = set()
    start = time.perf_counter()
    for arrival in arrivals:
        begin = start + float(arrival)
        await asyncio.sleep(max(0.0, begin - time.perf_counter()))
        samples.late.append(max(0.0, time.perf_counter() - begin))
        tasks.add(asyncio.create_task(_one(call, begin, samples)))
    if tasks:
        await asyncio.gather(*tasks)
    samples.seconds = time.perf_counter() - start
    return samples


async def _one(call: Call, begin: float, samples: Samples) -> bool:
    """Make a call and note what came of it; return whether it got in."""
    try:
        outcome = await call()
    except OverloadedError:
        samples.refused += 1
        return False
    except MuseClientError as error:
        _count(samples.failed, type(error).__name__)
        return False
    samples.latencies.append(time.perf_counter() - begin)
    if outcome is not None:
        _count(samples.outcomes, outcome)
    return True


def _count(counts: dict[str, int], name: str) -> None:
    counts[name] = counts.get(name, 0) + 1
