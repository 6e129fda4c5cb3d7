"""What every benchmark shares: alternating runs, medians, output."""

from __future__ import annotations

import dataclasses
import json
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

RUNS = 7


@dataclasses.dataclass(frozen=True)
class Result:
    """One case; `ratio` is peer time over our time, higher is better."""

    bench: str
    case: str
    ours_ms: float
    peer: str
    peer_ms: float
    ratio: float
    agree: bool
    floor_ms: float
    threads: int
    rss_mb: int


def alternate(
    ours: Callable[[], Any], peer: Callable[[], Any], runs: int = RUNS
) -> tuple[float, float]:
    """Runs both in turn and returns their median milliseconds."""
    for _ in range(2):
        ours()
        peer()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(runs):
        for taken, call in zip(times, (ours, peer), strict=True):
            start = time.perf_counter()
            call()
            taken.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[0]), statistics.median(times[1])


def rss_mb() -> int:
    """Returns the peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def print_json(result: Result) -> None:
    """Prints one case as a JSON line."""
    rounded = {
        key: round(value, 3) if isinstance(value, float) else value
        for key, value in dataclasses.asdict(result).items()
    }
    print(json.dumps(rounded), flush=True)


def print_table(results: list[Result]) -> None:
    """Prints all cases for people."""
    head = ("case", "ours ms", "peer", "peer ms", "ratio", "agree", "floor ms")
    rows = [
        (
            result.case,
            f"{result.ours_ms:.2f}",
            result.peer,
            f"{result.peer_ms:.2f}",
            f"{result.ratio:.2f}",
            "yes" if result.agree else "NO",
            f"{result.floor_ms:.2f}",
        )
        for result in results
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        print("  ".join(v.ljust(w) for v, w in zip(row, widths, strict=True)))
