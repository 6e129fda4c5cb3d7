"""The loads, their lengths, and their output."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from benchmarks import harness
from benchmarks.load.processes import Server
from benchmarks.load.summary import cores_used, cpu_seconds, table
from benchmarks.remote import Remote

HISTORIES = (1_000, 10_000, 100_000)
ALIKE = 8
"""Users of a workload in which all histories are equally long."""
MIXED = ((1_000, 56), (10_000, 20), (100_000, 4))
"""More users than the user cache has room for, as it should be."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is done.

    Attributes:
        candidates: of a request.
        histories: lengths.
        mixed: users by length of history, of the mixed loads.
        workers: of the closed loops.
        seconds: of a run; long histories take twice that.
        mixed_seconds: of a run with mixed users.
        shares: of the throughput of `rank`, as rates of open loops.
    """

    candidates: tuple[int, ...] = (1_000, 100)
    histories: tuple[int, ...] = HISTORIES
    mixed: tuple[tuple[int, int], ...] = MIXED
    workers: tuple[int, ...] = (1, 4)
    seconds: float = 2.0
    mixed_seconds: float = 8.0
    shares: tuple[float, ...] = (0.5, 0.9)


QUICK = Sizes(
    candidates=(1_000,),
    histories=(1_000, 10_000),
    mixed=((1_000, 24), (10_000, 8)),
    workers=(4,),
    seconds=0.5,
    mixed_seconds=1.0,
    shares=(0.5,),
)


class Runs:
    """Runs loads and writes each down.

    Args:
        report: where the lines go.
        generator: the process that asks.
        servers: processes whose CPU time is measured, by name.
    """

    def __init__(
        self,
        report: harness.Report,
        generator: Remote,
        servers: Mapping[str, Server],
    ) -> None:
        self._report = report
        self._generator = generator
        self._servers = servers
        self.rows: list[dict[str, Any]] = []

    def run(
        self,
        case: str,
        kind: str,
        workload: str,
        seconds: float,
        *,
        workers: int = 0,
        rate: float = 0.0,
        server: str = "server",
        beside: tuple[str, str] | None = None,
    ) -> dict[str, Any]:
        """Run one load.

        Args:
            case: what it shows.
            kind: of the calls; see `calls.KINDS`.
            workload: name of the workload.
            seconds: how long.
            workers: of a closed loop; 0 for an open one.
            rate: arrivals per second of an open loop.
            server: name of the process that stands as `server` in the table.
            beside: kind and workload of one more caller, not measured.

        Returns:
            What the generator found.
        """
        loop = f"{workers} workers" if workers else f"{rate:.1f} per s"
        harness.say(f"serve: {case}, {loop}")
        busy = {"server": self._servers[server].process.pid}
        if kind == "service":
            busy["service"] = self._servers["service"].process.pid
        before = {name: cpu_seconds(pid) for name, pid in busy.items()}
        found: dict[str, Any] = self._generator.call(
            "run",
            kind=kind,
            workload=workload,
            seconds=seconds,
            workers=workers,
            rate=rate,
            beside=beside,
        )
        after = {name: cpu_seconds(pid) for name, pid in busy.items()}
        found |= cores_used(before, after, found["seconds"])
        row = {"case": case, "loop": loop, **found}
        self.rows.append(row)
        facts = {name: value for name, value in row.items() if name != "case"}
        self._report.fact(f"load, {case}", **facts)
        if found["failed"]:
            self._report.wrong(f"{case}: {found['errors']}")
        return found

    def print_table(self) -> None:
        """Print all runs for people."""
        harness.print_columns(table(self.rows))
        print(
            "hits: share of answers from the user cache. cores: those that "
            "the process kept busy,\nof the same 2; the load generator is "
            "one of them."
        )


def workload_names(sizes: Sizes) -> dict[str, dict[str, Any]]:
    """Return the arguments of every `Workload` but the number of items."""
    alike = {
        f"{length:,} x {count:,}": {
            "users": [(length, ALIKE)],
            "candidates": count,
        }
        for length in sizes.histories
        for count in sizes.candidates
    }
    mixed = {
        "mixed": {"users": list(sizes.mixed), "candidates": sizes.candidates[0]}
    }
    return {**alike, **mixed}


def control(runs: Runs, sizes: Sizes) -> None:
    """Throughput of the embedded server, and of one that does nothing."""
    ends = {
        f"{sizes.histories[0]:,} x {sizes.candidates[-1]:,}",
        f"{sizes.histories[-1]:,} x {sizes.candidates[0]:,}",
    }
    for name in sorted(ends):
        for workers in (1, 16) if len(sizes.workers) > 1 else (4,):
            for case, kind, server in (
                ("bytes only", "raw", "raw"),
                ("no-op model", "noop", "noop"),
            ):
                runs.run(
                    f"{case}, {name}",
                    kind,
                    name,
                    sizes.seconds / 2,
                    workers=workers,
                    server=server,
                )


def beside(runs: Runs, sizes: Sizes) -> None:
    """Time of a small call during large REST calls, megabytes of JSON."""
    small = f"{sizes.histories[0]:,} x {sizes.candidates[-1]:,}"
    large = f"{sizes.histories[-1]:,} x {sizes.candidates[0]:,}"
    for other in (None, ("rank_by_rest", large)):
        runs.run(
            f"rank, {small}, {'beside REST' if other else 'alone'}",
            "rank",
            small,
            sizes.seconds,
            workers=1,
            beside=other,
        )


def model(runs: Runs, generator: Remote, sizes: Sizes) -> None:
    """The time that an earlier prefetch saves the ranking call."""
    for count in sizes.candidates:
        for length in sizes.histories:
            name = f"{length:,} x {count:,}"
            generator.call("fill", workload=name)
            seconds = sizes.seconds * (2 if length == HISTORIES[-1] else 1)
            used = sizes.workers if count == sizes.candidates[0] else (4,)
            for workers in used:
                for kind in ("rank", "rank_cached"):
                    runs.run(
                        f"{kind}, {name}", kind, name, seconds, workers=workers
                    )


def mixed(runs: Runs, generator: Remote, sizes: Sizes) -> None:
    """Users of all kinds, closed and open, with and without prefetch."""
    seconds = sizes.mixed_seconds
    generator.call("fill", workload="mixed")
    for kind in ("rank", "rank_cached"):
        found = runs.run(f"{kind}, mixed", kind, "mixed", seconds, workers=4)
        if kind == "rank":
            most = found["per_second"]
    for share in sizes.shares:
        for kind in ("rank", "rank_cached"):
            runs.run(
                f"{kind}, mixed, {share:.0%} of rank's most",
                kind,
                "mixed",
                seconds,
                rate=share * most,
            )


def service(runs: Runs, sizes: Sizes) -> None:
    """Retrieval, then `rank`, against the service, which overlaps both."""
    seconds = sizes.mixed_seconds
    kinds = {
        "match_then_rank": "retrieval, then rank",
        "service": "ranking service",
    }
    most = 0.0
    for workers in sizes.workers:
        for kind, case in kinds.items():
            found = runs.run(
                f"{case}, mixed", kind, "mixed", seconds, workers=workers
            )
            if kind == "match_then_rank":
                most = found["per_second"]
    for kind, case in kinds.items():
        runs.run(
            f"{case}, mixed, {sizes.shares[0]:.0%}",
            kind,
            "mixed",
            seconds,
            rate=sizes.shares[0] * most,
        )
