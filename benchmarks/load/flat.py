"""Whether a process keeps its size: samples of it, and the verdict.

The first third of a run is left out: caches fill, threads and connection
pools grow to what the load needs. Of the other two thirds the slope is taken
(Theil-Sen: the median of the slopes of all pairs of samples, so that the peaks
of version swaps do not decide) times their duration: the *growth*. Memory is
flat when it grows by at most 3 % of its median, or 16 MiB where that is less
than 16; file descriptors and threads when they grow by at most 4.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

MEMORY_SHARE = 0.03
MEMORY_MIB = 16.0
DESCRIPTORS = 4.0
THREADS = 4.0
_MOST_POINTS = 400


@dataclasses.dataclass(frozen=True)
class Sample:
    """A process at one moment.

    Attributes:
        seconds: since the beginning of the run.
        rss_mib: resident memory.
        descriptors: open file descriptors.
        threads: threads.
    """

    seconds: float
    rss_mib: float
    descriptors: int
    threads: int


@dataclasses.dataclass(frozen=True)
class Growth:
    """How a quantity changed in the last two thirds of a run.

    Attributes:
        median: its median.
        peak: its largest value.
        growth: slope times duration.
        allowed: largest growth that counts as flat.
    """

    median: float
    peak: float
    growth: float
    allowed: float

    @property
    def flat(self) -> bool:
        """Whether it grew by no more than is allowed."""
        return self.growth <= self.allowed


def take_sample(pid: int, seconds: float) -> Sample:
    """Look at a process.

    Raises:
        OSError: it is not there.
    """
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        fields = dict(line.split(":", 1) for line in file)
    return Sample(
        seconds=seconds,
        rss_mib=int(fields["VmRSS"].split()[0]) / 1024,
        descriptors=len(os.listdir(f"/proc/{pid}/fd")),
        threads=int(fields["Threads"]),
    )


def judge(samples: Sequence[Sample]) -> dict[str, Growth]:
    """Judge the samples of one process.

    Args:
        samples: ascending by time, at least six.

    Returns:
        By `rss_mib`, `descriptors` and `threads`.

    Raises:
        ValueError: if there are too few samples.
    """
    if len(samples) < 6:
        raise ValueError(f"Too few samples: {len(samples)}")
    last = samples[-1].seconds
    kept = [sample for sample in samples if sample.seconds >= last / 3]
    seconds = np.array([sample.seconds for sample in kept])
    found = {}
    for name in ("rss_mib", "descriptors", "threads"):
        values = np.array([getattr(sample, name) for sample in kept], float)
        median = float(np.median(values))
        allowed = {
            "rss_mib": max(MEMORY_MIB, MEMORY_SHARE * median),
            "descriptors": DESCRIPTORS,
            "threads": THREADS,
        }[name]
        found[name] = Growth(
            median=median,
            peak=float(values.max()),
            growth=slope(seconds, values) * float(np.ptp(seconds)),
            allowed=allowed,
        )
    return found


def slope(seconds: np.ndarray, values: np.ndarray) -> float:
    """Return the median slope of all pairs of points.

    Args:
        seconds: float (N,), ascending.
        values: float (N,).
    """
    step = -(-len(seconds) // _MOST_POINTS)
    seconds, values = seconds[::step], values[::step]
    first, second = np.triu_indices(len(seconds), 1)
    apart = seconds[second] - seconds[first]
    used = apart > 0
    slopes = (values[second] - values[first])[used] / apart[used]
    return float(np.median(slopes))
