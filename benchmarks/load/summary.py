"""What a run of a load gave, in numbers for people and programs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.load.loops import Samples

COLUMNS = {
    "loop": "loop",
    "calls": "calls",
    "p50_ms": "p50 ms",
    "p95_ms": "p95 ms",
    "p99_ms": "p99 ms",
    "per_second": "per s",
    "hit_rate": "hits",
    "refused": "refused",
    "failed": "failed",
    "generator_cores": "cores: load",
    "server_cores": "server",
    "service_cores": "service",
}


def percentiles(seconds: Sequence[float]) -> dict[str, float | None]:
    """Return the median, the 95th and the 99th percentile.

    Args:
        seconds: of each call.

    Returns:
        `p50_ms`, `p95_ms`, `p99_ms`, milliseconds; None without a call. A
        percentile is a call that was made, or lies between two of them: with
        fewer than 100 calls p99 says little more than the longest.
    """
    names = ("p50_ms", "p95_ms", "p99_ms")
    if not len(seconds):
        return dict.fromkeys(names)
    values = 1e3 * np.percentile(seconds, (50, 95, 99))
    return {
        name: round(float(value), 2)
        for name, value in zip(names, values, strict=True)
    }


def summary(samples: Samples) -> dict[str, Any]:
    """Return the numbers of a run; see `Samples`."""
    hit_rate = samples.hit_rate
    found: dict[str, Any] = {
        **percentiles(samples.latencies),
        "per_second": round(len(samples.latencies) / samples.seconds, 2),
        "calls": len(samples.latencies),
        "hit_rate": None if hit_rate is None else round(hit_rate, 3),
        "refused": samples.refused,
        "failed": sum(samples.failed.values()),
    }
    if len(samples.outcomes) > 1:
        found["outcomes"] = samples.outcomes
    if samples.failed:
        found["errors"] = samples.failed
    if samples.late:
        late = percentiles(samples.late)
        found["sent_late_p99_ms"] = late["p99_ms"]
    return found


def cores_used(
    before: Mapping[str, float], after: Mapping[str, float], seconds: float
) -> dict[str, float]:
    """Return the cores that each process kept busy.

    Args:
        before: CPU seconds by name of the process.
        after: the same, later.
        seconds: between the two.

    Returns:
        Cores by `<name>_cores`.
    """
    return {
        f"{name}_cores": round((after[name] - before[name]) / seconds, 2)
        for name in before
    }


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process since it began, all threads."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def table(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Return runs as rows of text, the head first; see `COLUMNS`."""
    used = [
        name
        for name in COLUMNS
        if any(row.get(name) is not None for row in rows)
    ]
    head = ("load", *(COLUMNS[name] for name in used))
    return [
        head,
        *(
            (str(row["case"]), *(_entry(row.get(name)) for name in used))
            for row in rows
        ),
    ]


def _entry(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
