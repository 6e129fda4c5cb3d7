"""What every benchmark shares: pinned threads, alternating runs, output.

A benchmark is a module with a `main`. It names its cases, and for each one
what ours and the peers do; the harness runs them in turn, so that a slow
minute of the machine hits all alike, and reports medians.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

RUNS = 7
WARMUP = 2

# A measured call does its work once and returns the milliseconds it took.
Timed = Callable[[], float]


@dataclasses.dataclass(frozen=True)
class Result:
    """One case against one peer.

    Attributes:
        bench: name of the benchmark.
        case: what was done, with its sizes.
        ours_ms: median milliseconds of ours.
        peer: name of what did the same, None where there is no peer.
        peer_ms: median milliseconds of the peer.
        ratio: peer_ms / ours_ms, higher is better.
        agree: whether the results are the same.
        agree_by: how that was checked.
        floor_ms: what the machine needs at least, by bytes or flops, or None.
        threads: threads of each.
        rss_mb: peak resident memory of our process.
    """

    bench: str
    case: str
    ours_ms: float
    peer: str | None
    peer_ms: float | None
    agree: bool
    agree_by: str
    floor_ms: float | None
    threads: int
    rss_mb: int

    @property
    def ratio(self) -> float | None:
        """Return how many times ours fits into the peer's time."""
        return self.peer_ms / self.ours_ms if self.peer_ms else None


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return the options that every benchmark has."""
    made = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--quick", action="store_true", help="small sizes")
    made.add_argument("--json", action="store_true", help="no table")
    made.add_argument("--threads", type=int, default=2, help="of each side")
    return made


def pin(threads: int) -> None:
    """Give this process and its children `threads` cores and no more.

    Call it before a numerical library is imported.
    """
    cores = sorted(os.sched_getaffinity(0))[:threads]
    os.sched_setaffinity(0, cores)
    for name in (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "TF_NUM_INTRAOP_THREADS",
        "TF_NUM_INTEROP_THREADS",
    ):
        os.environ[name] = str(threads)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")


def timed(call: Callable[[], Any]) -> Timed:
    """Return `call` as a measured call."""

    def measured() -> float:
        start = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - start)

    return measured


def alternate(
    calls: Mapping[str, Timed], runs: int = RUNS, warmup: int = WARMUP
) -> dict[str, float]:
    """Run all calls in turn; return the median milliseconds of each."""
    for _ in range(warmup):
        for call in calls.values():
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            times[name].append(call())
    return {name: statistics.median(taken) for name, taken in times.items()}


def say(text: str) -> None:
    """Tell, on stderr, how far a long benchmark is."""
    print(text, file=sys.stderr, flush=True)


def rss_mb() -> int:
    """Return the peak resident memory of this process, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


class Report:
    """Prints each result as it comes, and all of them as a table."""

    def __init__(self, bench: str, arguments: argparse.Namespace) -> None:
        self._bench = bench
        self._threads = arguments.threads
        self._json = arguments.json
        self._results: list[Result] = []
        self._wrong: list[str] = []

    def add(
        self,
        case: str,
        ours_ms: float,
        peers: Mapping[str, float] | None = None,
        *,
        agree: bool | Mapping[str, bool],
        agree_by: str,
        floor_ms: float | None = None,
        rss: int | None = None,
        right: bool | None = None,
    ) -> None:
        """Add one case, a line per peer (or one line without a peer).

        Args:
            case: what was done, with its sizes.
            ours_ms: median milliseconds of ours.
            peers: median milliseconds by peer.
            agree: whether the results are the same, for all or by peer.
            agree_by: how that was checked.
            floor_ms: the machine's bound.
            rss: peak memory in MiB; this process's own if None.
            right: whether ours is right, where a peer may differ because it
                approximates; None: all must agree.
        """
        for peer, peer_ms in (peers or {None: None}).items():
            if isinstance(agree, Mapping):
                same = agree[str(peer)]
            else:
                same = agree
            result = Result(
                bench=self._bench,
                case=case,
                ours_ms=ours_ms,
                peer=peer,
                peer_ms=peer_ms,
                agree=same,
                agree_by=agree_by,
                floor_ms=floor_ms,
                threads=self._threads,
                rss_mb=rss_mb() if rss is None else rss,
            )
            self._results.append(result)
            if not (same if right is None else right):
                self._wrong.append(f"{case} ({peer})")
            print(_line(result), flush=True)

    def fact(self, case: str, **values: Any) -> None:
        """Print a measured quantity that is not a time, as a JSON line."""
        line = {"bench": self._bench, "case": case, **values}
        print(json.dumps(line), flush=True)

    def wrong(self, case: str) -> None:
        """Note a wrong result that is no time."""
        self._wrong.append(case)

    def close(self) -> None:
        """Print the table; end with code 1 if a result is wrong."""
        if self._results and not self._json:
            _print_table(self._results)
        if self._wrong:
            sys.exit(f"{self._bench}: results differ: {', '.join(self._wrong)}")


def _line(result: Result) -> str:
    """Return one case as a JSON line."""
    values = dataclasses.asdict(result)
    fields = {
        "bench": values["bench"],
        "case": values["case"],
        "ours_ms": values["ours_ms"],
        "peer": values["peer"],
        "peer_ms": values["peer_ms"],
        "ratio": result.ratio,
        **{
            name: values[name]
            for name in ("agree", "agree_by", "floor_ms", "threads", "rss_mb")
        },
    }
    return json.dumps(
        {
            name: round(value, 3) if isinstance(value, float) else value
            for name, value in fields.items()
        }
    )


def _print_table(results: list[Result]) -> None:
    """Print all cases as a table."""
    head = ("case", "ours ms", "peer", "peer ms", "ratio", "agree", "floor ms")
    rows = [
        (
            result.case,
            f"{result.ours_ms:,.2f}",
            result.peer or "-",
            _number(result.peer_ms),
            _number(result.ratio),
            "yes" if result.agree else "NO",
            _number(result.floor_ms),
        )
        for result in results
    ]
    print_columns([head, *rows])
    for how in dict.fromkeys(result.agree_by for result in results):
        print(f"agree: {how}")


def print_columns(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of text in aligned columns, the head first."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        entries = zip(row, widths, strict=True)
        print(
            "  ".join(value.ljust(width) for value, width in entries).rstrip()
        )


def _number(value: float | None) -> str:
    """Return a number with two decimals, or a dash."""
    return "-" if value is None else f"{value:,.2f}"
